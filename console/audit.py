"""Who changed what here: the lake's table `audit`.

In this order, so that no change is without a row and no row is written twice:
1. before the change, a row without an outcome in the state store;
2. after it, the outcome in the same row;
3. finished rows into the lake, in a transaction that leaves out those that are there already;
4. they are taken out of the state store.

While the lake is away rows wait at step 2. A row whose console was killed in between says so.
"""

import logging
import time
from collections.abc import Callable
from threading import Lock
from typing import Any

from everlearn.config import Service
from everlearn.errors import EverlearnError
from everlearn.ids import new_id
from everlearn.lake.ducklake import DuckLake, open_lake
from everlearn.lake.store import Transaction
from everlearn.state import State, StateConflict, open_state

log = logging.getLogger(__name__)

KIND, OUTBOX = "audit", "outbox"
ABANDONED_SECONDS = 600.0
UNKNOWN = "not known: the console ended before it could tell"
ATTEMPTS = 50
Rows = dict[str, dict[str, Any]]


class Audit:
    """The book of changes; safe to use from several threads and consoles."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._state: State | None = None
        self._lake: DuckLake | None = None
        self._lock = Lock()

    def asked(self, who: str, role: str, action: str) -> str:
        """Step 1; the row's id. StateError: then nothing may be changed."""
        audit_id = new_id("aud")
        row = {"asked_at": time.time(), "who": who, "role": role, "action": action, "outcome": None}
        self._change(lambda rows: {**rows, audit_id: row})
        return audit_id

    def told(self, audit_id: str, **fields: Any) -> None:
        """Steps 2 to 4; what cannot be written now waits."""

        def finish(rows: Rows) -> Rows:
            return {**rows, audit_id: {**rows.get(audit_id, {}), **fields}}

        try:
            self._change(finish)
            self.flush()
        except EverlearnError as error:
            log.error("audit row %s waits: %s", audit_id, error)

    def flush(self) -> None:
        """Steps 3 and 4."""
        with self._lock:
            found = self._store().get(KIND, OUTBOX)
            rows = {} if found is None else _finished(found[0])
            if not rows:
                return
            if self._lake is None:
                self._lake = open_lake(self._service, threads=1)
            self._lake.commit(lambda transaction: _append(transaction, rows))
        self._change(lambda kept: {key: row for key, row in kept.items() if key not in rows})

    def close(self) -> None:
        """Let go of lake and store."""
        for held in (self._lake, self._state):
            if held is not None:
                held.close()

    def _change(self, make: Callable[[Rows], Rows]) -> None:
        for _ in range(ATTEMPTS):
            found = self._store().get(KIND, OUTBOX)
            rows, revision = ({}, 0) if found is None else found
            try:
                self._store().put(KIND, OUTBOX, make(rows), revision)
                return
            except StateConflict:
                continue
        raise StateConflict("the audit's outbox: somebody else kept writing; try again")

    def _store(self) -> State:
        if self._state is None:
            self._state = open_state(self._service)
        return self._state


def _finished(rows: Rows) -> Rows:
    """Those with an outcome, and those that will never have one."""
    finished = {key: row for key, row in rows.items() if row["outcome"] is not None}
    limit = time.time() - ABANDONED_SECONDS
    lost = {
        key: row for key, row in rows.items() if row["outcome"] is None and row["asked_at"] < limit
    }
    return {**finished, **{key: {**row, "outcome": UNKNOWN} for key, row in lost.items()}}


def _append(transaction: Transaction, rows: Rows) -> None:
    # ids begin with their time
    found = transaction.query("SELECT audit_id FROM audit WHERE audit_id >= ?", [min(rows)])
    there = {row["audit_id"] for row in found}
    new = [{**row, "audit_id": key} for key, row in rows.items() if key not in there]
    if new:
        transaction.append("audit", new)

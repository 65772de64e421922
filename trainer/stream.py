"""What a run shows while it trains: metrics and completions, sent to MLflow by a thread of its own.

- Training never waits for the server, and goes on without it; what could not be sent is sent with
  what comes next, and at the end said.
- Completions are one MLflow table, `completions.json`: some of every few steps, each with its
  prompt, reward and components, and with the completion id that its prompt came from: when that
  row is erased, its texts are taken out (`registry.erasure`).
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any

from everlearn.errors import RegistryError
from registry.erasure import TABLE
from trainer.tracking import Metrics, TrainingRun

SEND_SECONDS = 2.0
TABLE_SECONDS = 10.0
"""Between two versions of the table, which goes whole each time."""
TABLE_STEPS = 60
"""Steps of which the table shows completions, at most."""
SHOWN = 16
"""Completions of one step in the table."""

Shown = Mapping[str, Any]
"""One row of the table."""


class Stream:
    """Of one run; `close` sends the rest."""

    def __init__(self, run: TrainingRun, report: Callable[[str], None]) -> None:
        self._run, self._report = run, report
        self._metrics: Metrics = []
        self._table: list[Shown] = []
        self._sent, self._table_due = 0, 0.0
        self._lock, self._over = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._loop, name="evidence", daemon=True)
        self._thread.start()

    def metrics(self, values: Metrics) -> None:
        """(name, value, step) triples."""
        with self._lock:
            self._metrics += values

    def completions(self, step: int, steps: int, rows: Iterable[Shown]) -> None:
        """Answers of one step of a run of `steps`; no more of them are made than are shown."""
        if step % max(1, -(-steps // TABLE_STEPS)):
            return
        shown = [{"step": step, **row} for row in islice(rows, SHOWN)]
        with self._lock:
            self._table += shown

    def close(self) -> None:
        """Send what is left; say so when that fails."""
        self._over.set()
        self._thread.join()
        failure = self._send(last=True)
        if failure is not None:
            self._report(f"the last of the evidence could not be sent to MLflow: {failure}")

    def _loop(self) -> None:
        while not self._over.wait(SEND_SECONDS):
            self._send()

    def _send(self, last: bool = False) -> str | None:
        """Send what is there; why not, where it fails: it is kept for the next time."""
        due = last or time.monotonic() >= self._table_due
        with self._lock:
            values, self._metrics = self._metrics, []
            rows = list(self._table)
        try:
            if values:
                self._run.metrics(values)
            values = []
            if due and len(rows) > self._sent:
                self._run.table(TABLE, rows)
                self._sent, self._table_due = len(rows), time.monotonic() + TABLE_SECONDS
        except RegistryError as error:
            with self._lock:
                self._metrics = values + self._metrics
            return str(error)
        return None

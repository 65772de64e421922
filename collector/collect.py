"""Event log to lake, exactly once: one loop over the bus seam.

- Rows, dead letters and positions are written in one lake transaction.
- Every transaction moves the positions on from where this collector left them; where another has
  moved them meanwhile it reads them first, and drops what that one has stored.
- A record seen before under another position (a shipper that sent twice) is dropped by its
  gateway id and sequence number.
- Nothing that a record holds stops the stream.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from collector.batch import Batch
from everlearn.config import Collector as Limits
from everlearn.errors import LakeError
from everlearn.lake.store import Lake, Transaction
from everlearn.log.bus import EventSource, Record

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
COMMIT_SHARE = 0.1
"""Of a core, for commits of small batches: where one costs much, the next comes later."""
LATEST_SECONDS = 1.2
"""But not later than that: what was answered is to stand in the lake after two seconds."""

_HIGHEST = """
SELECT max(seq) AS seq FROM (
    SELECT max(seq) AS seq FROM completions WHERE gateway_id = $1
    UNION ALL SELECT max(seq) FROM feedback WHERE gateway_id = $1
    UNION ALL SELECT max(seq) FROM dead_letters WHERE gateway_id = $1)"""

_STORED = """
SELECT seq, completion_id AS id FROM completions WHERE gateway_id = $1 AND seq BETWEEN $2 AND $3
UNION ALL
SELECT seq, feedback_id FROM feedback WHERE gateway_id = $1 AND seq BETWEEN $2 AND $3
UNION ALL
SELECT seq, NULL FROM dead_letters WHERE gateway_id = $1 AND seq BETWEEN $2 AND $3"""


class Outrun(Exception):
    """Another collector has stored something of the same sources."""


class Stored(NamedTuple):
    """What one batch came to."""

    records: int
    rows: int
    repeated: int
    """Dropped because they stood in the lake already."""
    dead_letters: int
    payload_bytes: int
    oldest_seconds: float
    """How long the batch gathered."""
    told: Sequence[Mapping[str, Any]]
    """What the process log says of rows that were not whole."""


class Collector:
    """Moves records from `source` into `lake`."""

    def __init__(self, source: EventSource, lake: Lake, limits: Limits) -> None:
        self._source, self._lake, self._limits = source, lake, limits
        self._highest: dict[str, int] = {}
        """Per gateway: numbers up to here may stand in the lake already."""
        self._gathered_at = time.monotonic()
        """When the last batch was closed."""
        self._reached: dict[str, int] = {}
        """Per source: where our last commit left it."""
        self._ahead = False
        """The source has handed out what is not stored: it must be set back first."""
        self._cost_seconds = 0.0
        """Processor time of the last commit."""
        lake.commit(fence)
        source.seek(positions(lake))

    def run(self, stopped: Callable[[], bool], stored: Callable[[Stored], None]) -> None:
        """Collect until stopped, then what is still there; a lake that is away is waited for."""
        while not stopped():
            try:
                self.step(1.0, stored)
            except LakeError as error:
                log.error("%s; going on from what is stored", error)
                time.sleep(RETRY_SECONDS)
        while self.step(0.0, stored):
            pass

    def step(self, timeout_seconds: float, stored: Callable[[Stored], None]) -> bool:
        """Gather one batch and write it; whether there was any.

        1. After a failure, set the source back to what is stored.
        2. Gather until a limit of rows, bytes or seconds is met.
        3. Write rows, dead letters and positions in one transaction.
        4. Tell the source, which may now free space.
        """
        if self._ahead:
            self._source.seek(positions(self._lake))
        self._ahead = True
        records, seconds = self._gather(timeout_seconds)
        done = self.store(records) if records else None
        self._ahead = False
        if done is None:
            return False
        stored(done._replace(oldest_seconds=seconds))
        return True

    def store(self, records: Sequence[Record]) -> Stored:
        """Write one batch (steps 3 and 4)."""
        reached: dict[str, int] = {}
        for record in records:
            reached[record.source] = max(record.position + 1, reached.get(record.source, 0))
        started = time.thread_time()
        try:
            done = self._lake.commit(lambda transaction: self._write(transaction, records, reached))
        except Outrun:
            # What that one has stored may be sent here again.
            self._reached.clear()
            self._highest.clear()
            done = self._lake.commit(lambda transaction: self._write(transaction, records, reached))
        self._cost_seconds = time.thread_time() - started
        for record in records:
            if record.seq > self._highest.get(record.gateway_id, 0):
                self._highest[record.gateway_id] = record.seq
        for source, position in reached.items():
            self._reached[source] = max(position, self._reached.get(source, 0))
        self._source.committed(reached)
        return done

    def _gather(self, timeout_seconds: float) -> tuple[list[Record], float]:
        """A batch and how long it gathered. Batches are closed `max_batch_seconds` apart, so that
        what came during a commit does not wait as long again, and further apart where commits cost
        more than their share."""
        limits, records, size = self._limits, list[Record](), 0
        apart = min(LATEST_SECONDS, self._cost_seconds / COMMIT_SHARE)
        apart = max(limits.max_batch_seconds, apart)
        started = time.monotonic()
        deadline = started + timeout_seconds
        while len(records) < limits.max_batch_rows and size < limits.max_batch_bytes:
            left = max(0.0, deadline - time.monotonic())
            rows, room = limits.max_batch_rows - len(records), limits.max_batch_bytes - size
            found = self._source.poll(rows, room, left)
            if found and not records:
                started = time.monotonic()
                due = max(started, self._gathered_at + apart)
                deadline = min(due, started + timeout_seconds)
            records += found
            size += sum(len(record.payload) for record in found)
            if time.monotonic() >= deadline and not (found and timeout_seconds == 0):
                break
        self._gathered_at = time.monotonic()
        return records, self._gathered_at - started

    def _write(
        self, transaction: Transaction, records: Sequence[Record], reached: dict[str, int]
    ) -> Stored:
        before = self._move(transaction, reached)
        fresh = [item for item in records if item.position >= before.get(item.source, 0)]
        fresh = self._unseen(transaction, fresh)
        batch = Batch(fresh)
        for name, rows in batch.tables():
            transaction.append(name, rows)
        repeated = len(records) - len(fresh)
        size = sum(len(record.payload) for record in fresh)
        return Stored(len(records), batch.rows, repeated, batch.dead_letters, size, 0.0, batch.told)

    def _move(self, transaction: Transaction, reached: dict[str, int]) -> dict[str, int]:
        """Set the positions to what is reached; where they were. Outrun if they are not where we
        left them."""
        left = {source: self._reached[source] for source in reached if source in self._reached}
        if len(left) == len(reached):
            if advance(transaction, left, reached) != len(reached):
                raise Outrun
            return left
        before = _positions(transaction.query, list(reached))
        if any(before.get(source, 0) != self._reached.get(source, 0) for source in reached):
            self._highest.clear()
        move(transaction, before, reached)
        return before

    def _unseen(self, transaction: Transaction, records: Sequence[Record]) -> list[Record]:
        """Without those that the lake holds; only numbers not above the highest are looked up."""
        highest = {record.gateway_id: 0 for record in records}
        for gateway in highest:
            known = self._highest.get(gateway)
            if known is None:
                known = transaction.query(_HIGHEST, [gateway])[0]["seq"] or 0
                self._highest[gateway] = known
            highest[gateway] = known
        if _in_order(records, highest):
            return list(records)
        held: set[tuple[str, int]] = set()
        for gateway, top in highest.items():
            old = [r.seq for r in records if r.gateway_id == gateway and 0 < r.seq <= top]
            if old:
                rows = transaction.query(_STORED, [gateway, min(old), max(old)])
                held |= {(gateway, row["seq"]) for row in rows}
        unseen = []
        for record in records:
            key = (record.gateway_id, record.seq)
            if record.seq <= 0:
                # Without a number, but a partition that comes back within a batch is read again.
                key = (record.source, record.position)
            if key not in held:
                unseen.append(record)
                held.add(key)
        return unseen


def _in_order(records: Sequence[Record], highest: Mapping[str, int]) -> bool:
    """Every number is above all before it, so that none is a repetition; as it mostly is."""
    top = dict(highest)
    for record in records:
        if record.seq <= top[record.gateway_id]:
            return False
        top[record.gateway_id] = record.seq
    return True


FENCE = "(new sources)"
"""A row of `offsets` that whoever adds a source updates: of two that add the same one at once, the
second conflicts and repeats. Two inserts alone do not conflict in DuckLake over Postgres."""


def fence(transaction: Transaction) -> None:
    """Make sure that the row of `FENCE` is there."""
    if not transaction.query("SELECT 1 AS x FROM offsets WHERE source = ?", [FENCE]):
        transaction.append("offsets", [{"source": FENCE, "position": 0}])


def positions(lake: Lake) -> dict[str, int]:
    """Where each source goes on, as the lake knows it."""
    sql = "SELECT source, max(position) AS position FROM offsets WHERE source <> ? GROUP BY source"
    return {row["source"]: row["position"] for row in lake.read(sql, [FENCE]).to_pylist()}


def _positions(
    query: Callable[..., list[dict[str, Any]]], sources: Sequence[str]
) -> dict[str, int]:
    marks = ", ".join("?" for _ in sources)
    sql = f"SELECT source, position FROM offsets WHERE source IN ({marks})"
    return {row["source"]: row["position"] for row in query(sql, sources)}


def advance(transaction: Transaction, left: Mapping[str, int], reached: Mapping[str, int]) -> int:
    """Move those sources on that stand where they were left; how many did."""
    if not left:
        return 0
    rows = ", ".join(f"(${n}, ${n + 1}, ${n + 2})" for n in range(2, 2 + 3 * len(left), 3))
    sql = f"""
        UPDATE offsets SET position = v.position, updated_at = $1
        FROM (VALUES {rows}) v(source, was, position)
        WHERE offsets.source = v.source AND offsets.position = v.was"""
    values = [
        value for source, was in left.items() for value in (source, was, max(was, reached[source]))
    ]
    moved: int = transaction.query(sql, [datetime.now(UTC), *values])[0]["Count"]
    return moved


def move(transaction: Transaction, before: dict[str, int], reached: dict[str, int]) -> None:
    """Write how far each source has been read; `before` is what this transaction found."""
    now = datetime.now(UTC)
    advance(
        transaction, {source: before[source] for source in reached if source in before}, reached
    )
    new = [
        {"source": source, "position": position, "updated_at": now}
        for source, position in reached.items()
        if source not in before
    ]
    if new:
        transaction.query("UPDATE offsets SET updated_at = ? WHERE source = ?", [now, FENCE])
        transaction.append("offsets", new)

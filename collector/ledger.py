"""The proof of completeness: per gateway, what it acknowledged against what the lake holds.

`missing` is what was acknowledged, is not in the lake and is not on its way. What is on its way is
read after what was acknowledged and before what is stored, so that a moving stream never shows a
loss that is none.
"""

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from collector.collect import positions
from everlearn.config import Service
from everlearn.errors import CaptureError
from everlearn.events import Completion, decode
from everlearn.identity import Counts, read_counts, read_identity, worker_folders
from everlearn.segments import Entry, entries, segments
from everlearn.store import Lake

_STORED = """
SELECT gateway_id, count(*) AS rows, count(DISTINCT seq) AS stored,
    count(*) FILTER (dead) AS dead_letters, max(seq) AS highest
FROM (
    SELECT gateway_id, seq, false AS dead FROM completions
    UNION ALL SELECT gateway_id, seq, false FROM feedback
    UNION ALL SELECT gateway_id, seq, true FROM dead_letters
) WHERE seq IS NOT NULL GROUP BY gateway_id"""


@dataclass(frozen=True)
class GatewayLedger:
    """One gateway worker's account."""

    gateway_id: str
    acknowledged: int
    """Events that the gateway appended to its log."""
    stored: int
    """Of these, in the lake, dead letters included."""
    missing: int
    """Acknowledged, and neither in the lake nor on the way."""
    duplicates: int
    """Rows beyond one per event."""
    dropped: int
    """Never acknowledged: the log or the disk was full."""
    dead_letters: int
    skipped: int
    """Sequence numbers left out after a power loss."""
    lag_seconds: float
    """Age of the oldest event that is on its way; 0 if there is none."""


@dataclass(frozen=True)
class _Log:
    """What a worker's folder says."""

    counts: Counts
    pending: int
    lag_seconds: float


def ledger(service: Service, lake: Lake) -> list[GatewayLedger]:
    """The account of every gateway worker that has a folder here or rows in the lake."""
    reached = positions(lake)
    logs = {
        folder.name: log
        for folder in worker_folders(service.wal_path)
        if (log := _read_log(folder, reached.get(f"wal/{folder.name}", 1))) is not None
    }
    rows = {row["gateway_id"]: row for row in lake.read(_STORED).to_pylist()}
    return [_account(name, logs.get(name), rows.get(name)) for name in sorted({*logs, *rows})]


def totals(ledgers: Iterable[GatewayLedger]) -> dict[str, Any]:
    """Sums over the gateways, the largest lag, and each gateway's account."""
    rows = [asdict(item) for item in ledgers]
    names = [name for name in GatewayLedger.__dataclass_fields__ if name != "gateway_id"]
    sums = {name: sum(row[name] for row in rows) for name in names}
    sums["lag_seconds"] = max((row["lag_seconds"] for row in rows), default=0.0)
    return {**sums, "gateways": rows}


def _account(name: str, log: _Log | None, row: dict[str, Any] | None) -> GatewayLedger:
    row = row or {"rows": 0, "stored": 0, "dead_letters": 0, "highest": 0}
    # Without the folder (another machine's gateway) the highest number stored is what is known.
    acknowledged = row["highest"] if log is None else log.counts.acknowledged
    pending = 0 if log is None else log.pending
    return GatewayLedger(
        gateway_id=name,
        acknowledged=acknowledged,
        stored=row["stored"],
        missing=max(0, acknowledged - pending - row["stored"]),
        duplicates=row["rows"] - row["stored"],
        dropped=0 if log is None else log.counts.dropped,
        dead_letters=row["dead_letters"],
        skipped=0 if log is None else log.counts.skipped,
        lag_seconds=0.0 if log is None else log.lag_seconds,
    )


def _read_log(folder: Path, position: int) -> _Log | None:
    try:
        read_identity(folder)
        counts = read_counts(folder)
    except CaptureError:
        return None
    pending = max(0, counts.next_seq - position)
    return _Log(counts, pending, _age(folder, position) if pending else 0.0)


def _age(folder: Path, position: int) -> float:
    """Seconds since the event at `position` was answered."""
    for first, path in reversed(segments(folder)):
        if first > position:
            continue
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return 0.0
        for item in entries(data, 0, first - 1, growing=True):
            if isinstance(item, Entry) and item.seq >= position:
                return max(0.0, time.time() - _answered_at(item.payload))
    return 0.0


def _answered_at(payload: bytes) -> float:
    try:
        event = decode(payload)
    except (msgspec.DecodeError, ValueError):
        return time.time()
    if isinstance(event, Completion):
        return event.received_at + event.latency_ms / 1000
    return event.received_at

"""The proof of completeness: per gateway, what it acknowledged against what the lake holds.

`missing` is what was acknowledged, is not in the lake and is not on its way. What is on its way is
read after what was acknowledged and before what is stored, so that a moving stream never shows a
loss that is none.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from collector.backlog import NOTHING_WAITS, Backlog
from collector.collect import positions
from collector.tally import Gateway, tally
from everlearn.config import Service
from everlearn.errors import CaptureError
from everlearn.events import Completion, decode
from everlearn.lake.store import Lake
from everlearn.log.identity import read_counts, read_identity, worker_folders
from everlearn.log.segments import Entry, entries, segments
from everlearn.state import open_state


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
    pending: int
    """Acknowledged and on the way to the lake."""
    lag_seconds: float
    """Age of the oldest event that is on its way; 0 if there is none."""


@dataclass(frozen=True)
class _Log:
    """What a gateway says of itself, and what has not left it."""

    acknowledged: int
    dropped: int
    skipped: int
    pending: int
    lag_seconds: float


def ledger(
    service: Service, lake: Lake, counted: Callable[[], Mapping[str, Gateway]] | None = None
) -> list[GatewayLedger]:
    """The account of every gateway worker that has a folder here or rows in the lake.

    `counted`: what stands in the lake, for whoever tells more of the same tally.
    """
    reached = positions(lake)
    if service.bus.kind == "kafka":
        from collector.kafka_backlog import read_backlog
        from collector.shipped import shipped_positions

        left = shipped_positions(service.wal_path)
        logs = {**_published(service), **_local(service, left)}
        backlog = read_backlog(service.bus, reached)
    else:
        logs, backlog = _local(service, reached), NOTHING_WAITS
    rows = counted() if counted else tally(lake).gateways
    names = sorted({*logs, *rows})
    return [_account(name, logs.get(name), rows.get(name), backlog) for name in names]


def totals(ledgers: Iterable[GatewayLedger]) -> dict[str, Any]:
    """Sums over the gateways, the largest lag, and each gateway's account."""
    rows = [asdict(item) for item in ledgers]
    names = [name for name in GatewayLedger.__dataclass_fields__ if name != "gateway_id"]
    sums = {name: sum(row[name] for row in rows) for name in names}
    sums["lag_seconds"] = max((row["lag_seconds"] for row in rows), default=0.0)
    return {**sums, "gateways": rows}


def _account(name: str, log: _Log | None, row: Gateway | None, backlog: Backlog) -> GatewayLedger:
    row = row or Gateway()
    # Of a gateway that nobody speaks for, the highest number stored is what is known.
    log = log or _Log(row.highest, 0, 0, 0, 0.0)
    open_events = max(0, log.acknowledged - row.stored)
    pending = min(open_events, log.pending + backlog.records)
    return GatewayLedger(
        gateway_id=name,
        acknowledged=log.acknowledged,
        stored=row.stored,
        missing=open_events - pending,
        duplicates=row.rows - row.stored,
        dropped=log.dropped,
        dead_letters=row.dead_letters,
        skipped=log.skipped,
        pending=pending,
        lag_seconds=max(log.lag_seconds, backlog.lag_seconds) if pending else 0.0,
    )


def _local(service: Service, left: Mapping[str, int]) -> dict[str, _Log]:
    """The gateways of this machine; `left` says up to where events have left their folders."""
    logs = {}
    for folder in worker_folders(service.wal_path):
        try:
            read_identity(folder)
            counts = read_counts(folder)
        except CaptureError:
            continue
        position = left.get(f"wal/{folder.name}", 1)
        pending = max(0, counts.next_seq - position)
        age = _age(folder, position) if pending else 0.0
        logs[folder.name] = _Log(counts.acknowledged, counts.dropped, counts.skipped, pending, age)
    return logs


def _published(service: Service) -> dict[str, _Log]:
    """The gateways of other machines, as their shippers last told."""
    state = open_state(service)
    documents = state.all("gateway")
    state.close()
    return {
        name: _Log(
            document["acknowledged"],
            document["dropped"],
            document["skipped"],
            max(0, document["next_seq"] - document["shipped"]),
            0.0,
        )
        for name, document in documents
    }


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

"""A WAL with events in it, and what the lake holds of them."""

from collections.abc import Iterable, Sequence
from typing import Any

from collector.collect import Collector, Stored
from collector.wal_source import WalSource
from everlearn.config import Collector as Limits
from everlearn.config import Service
from everlearn.events import Completion, Feedback, encode
from everlearn.lake.ducklake import DuckLake
from everlearn.log.identity import worker_folders
from everlearn.log.segments import segments
from everlearn.log.wal import WalWriter
from tests.builders import make_completion


def fill_wal(service: Service, events: Iterable[Completion | Feedback], worker: int = 0) -> str:
    """Append events as one gateway run; its gateway id."""
    wal = WalWriter(service.wal_path, worker, service.gateway.capture)
    for event in events:
        assert wal.append(encode(event)) is not None
    wal.close()
    return wal.gateway_id


def completions(count: int, **fields: Any) -> list[Completion]:
    return [make_completion(**fields) for _ in range(count)]


def collect(service: Service, lake: DuckLake, limits: Limits | None = None) -> list[Stored]:
    """A collector's whole run over what is there now."""
    batches: list[Stored] = []
    source = WalSource(service.wal_path)
    Collector(source, lake, limits or service.collector).run(lambda: True, batches.append)
    return batches


def column(lake: DuckLake, sql: str) -> list[Any]:
    """The first column of a query."""
    values: list[Any] = lake.read(sql).column(0).to_pylist()
    return values


def only_segments(service: Service) -> Sequence[tuple[int, Any]]:
    """The segments of the only worker."""
    (folder,) = worker_folders(service.wal_path)
    return segments(folder)

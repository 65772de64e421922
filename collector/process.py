"""The processes of the collector and the shipper: sources by config, signals, metrics."""

import fcntl
import gc
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager

import pyarrow as pa
from prometheus_client import Counter, Gauge, Histogram

from collector.collect import Collector, Stored, positions
from collector.compact import Compaction
from collector.wal_source import WalSource
from everlearn.config import Service
from everlearn.errors import ConfigError
from everlearn.lake.ducklake import DuckLake, open_lake
from everlearn.log.bus import EventSource
from everlearn.metrics import answer_prometheus
from everlearn.process_log import tell_rows

log = logging.getLogger(__name__)

LAKE_THREADS = 1
"""One stream of rows keeps one thread busy: of more, the others only spin, 7 us an event."""

ROWS = Counter("everlearn_collector_rows", "Rows written to the lake")
REPEATED = Counter("everlearn_collector_repeated", "Records dropped because they were stored")
DEAD = Counter("everlearn_collector_dead_letters", "Records that could not become rows")
GATHERED = Histogram("everlearn_collector_batch_seconds", "How long a batch gathered")
SHIPPED = Counter("everlearn_shipper_records", "Records that Kafka has acknowledged")
LAST = Gauge("everlearn_collector_last_commit_timestamp_seconds", "When a batch was last written")


def run(service: Service, *, once: bool = False) -> None:
    """Collect until SIGTERM or SIGINT; what is there by then is stored before the process ends."""
    settle_memory()
    stopped = stop_on_signals()
    answer_prometheus(service, "collector.metrics_port", service.collector.metrics_port)
    with ExitStack() as stack:
        if service.bus.kind == "wal":
            if not stack.enter_context(alone(service, stopped.is_set)):
                return
        elif not _topic_is_there(service, stopped.is_set):
            return
        lake = stack.enter_context(closing(open_lake(service, threads=LAKE_THREADS)))
        source = stack.enter_context(closing(open_source(service, lake)))
        compaction = Compaction(lake)

        def stored(batch: Stored) -> None:
            _count(batch)
            compaction.after_commit(batch.payload_bytes)

        collector = Collector(source, lake, service.collector)
        log.info("collecting from %s", service.bus.kind)
        collector.run((lambda: True) if once else stopped.is_set, stored)


def settle_memory() -> None:
    """For a process that moves rows by the ten thousand, in the same memory again and again.

    Rows are in no cycles: looking through them costs 3 us each. Arrow's own allocator gives memory
    back that the next chunk takes again, and the kernel clears it each time: 1 us a row.
    """
    gc.set_threshold(500_000, 20, 100)
    pa.set_memory_pool(pa.system_memory_pool())


def ship(service: Service) -> None:
    """Move the WAL to Kafka until SIGTERM or SIGINT, then what is still there."""
    from collector.ship import Announcer, Shipper
    from collector.ship import run as ship_until

    if service.bus.kind != "kafka":
        raise ConfigError(f"bus.kind = {service.bus.kind!r}: nothing to ship; kafka is needed")
    stopped = stop_on_signals()
    answer_prometheus(service, "bus.metrics_port", service.bus.metrics_port)
    with alone(service, stopped.is_set) as first:
        if not first or not _topic_is_there(service, stopped.is_set):
            return
        shipper = Shipper(service.wal_path, service.bus)
        announcer = Announcer(service)
        log.info("shipping to %s", service.bus.topic)
        try:
            ship_until(shipper, stopped.is_set, SHIPPED.inc)
        finally:
            shipper.close()
            announcer.close()


def open_source(service: Service, lake: DuckLake) -> EventSource:
    """The event log of the config."""
    if service.bus.kind == "wal":
        return WalSource(service.wal_path)
    from collector.kafka_source import KafkaSource

    return KafkaSource(service.bus, lambda: positions(lake))


def _topic_is_there(service: Service, stopped: Callable[[], bool]) -> bool:
    # kafka-python is imported only where a config asks for it.
    from collector.topic import ensure_topic

    return ensure_topic(service.bus, stopped)


def _count(batch: Stored) -> None:
    ROWS.inc(batch.rows)
    REPEATED.inc(batch.repeated)
    DEAD.inc(batch.dead_letters)
    GATHERED.observe(batch.oldest_seconds)
    LAST.set(time.time())
    tell_rows(log, "a record is not whole in the lake", batch.told)


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set."""
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    return stopped


@contextmanager
def alone(service: Service, cancelled: Callable[[], bool]) -> Iterator[bool]:
    """One reader of this machine's WAL at a time; a second one waits, ready to take over."""
    service.wal_path.mkdir(parents=True, exist_ok=True)
    handle = os.open(service.wal_path / "reader.lock", os.O_RDWR | os.O_CREAT, 0o644)
    said = False
    try:
        while not cancelled():
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield True
                return
            except BlockingIOError:
                if not said:
                    log.info("another process reads %s: waiting", service.wal_path)
                said = True
                time.sleep(0.2)
        yield False
    finally:
        os.close(handle)

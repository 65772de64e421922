"""The collector's process: source by config, signals, metrics, compaction between batches."""

import fcntl
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import Counter, Gauge, Histogram, start_http_server

from collector.collect import Collector, Stored
from collector.compact import Compaction
from collector.wal_source import WalSource
from everlearn.bus import EventSource
from everlearn.config import Service
from everlearn.ducklake import open_lake

log = logging.getLogger(__name__)

ROWS = Counter("everlearn_collector_rows", "Rows written to the lake")
REPEATED = Counter("everlearn_collector_repeated", "Records dropped because they were stored")
DEAD = Counter("everlearn_collector_dead_letters", "Records that could not become rows")
COMMIT = Histogram("everlearn_collector_commit_seconds", "Time to write one batch")
LAST = Gauge("everlearn_collector_last_commit_timestamp_seconds", "When a batch was last written")


def run(service: Service, *, once: bool = False) -> None:
    """Collect until SIGTERM or SIGINT; what is there by then is stored before the process ends."""
    stopped = stop_on_signals()
    if service.collector.metrics_port:
        start_http_server(service.collector.metrics_port)
    with alone(service, stopped.is_set) as first:
        if not first:
            return
        lake = open_lake(service)
        source = open_source(service)
        compaction = Compaction(lake)

        def stored(batch: Stored) -> None:
            ROWS.inc(batch.rows)
            REPEATED.inc(batch.repeated)
            DEAD.inc(batch.dead_letters)
            LAST.set(time.time())
            if batch.dead_letters:
                log.warning("%d dead letters", batch.dead_letters)
            compaction.after_commit()

        collector = Collector(source, lake, service.collector)
        log.info("collecting %s", service.bus.kind)
        collector.run((lambda: True) if once else stopped.is_set, stored)
        source.close()
        lake.close()


def open_source(service: Service) -> EventSource:
    """The event log of the config."""
    return WalSource(service.wal_path)


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

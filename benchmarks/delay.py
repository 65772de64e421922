"""Answer to queryable row: events appended at a steady rate, looked for in the lake."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from benchmarks.traffic import event
from everlearn.config import Service
from everlearn.lake.ducklake import open_lake
from everlearn.lake.store import Lake
from everlearn.log.wal import WalWriter

RATE = 500
SECONDS = 20.0
LOOK_SECONDS = 0.05


def p99_seconds(service: Service, verbs: Sequence[str]) -> float:
    """The 99th percentile over every event of the run, with `verbs` as processes of their own."""
    open_lake(service).close()
    processes = [_start(service, verb) for verb in verbs]
    try:
        return _measure(service)
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait(30)


def stored_in(lake: Lake) -> int:
    """Completions that a query sees."""
    (stored,) = lake.read("SELECT count(*) AS n FROM completions").column(0).to_pylist()
    return int(stored)


def _start(service: Service, verb: str) -> subprocess.Popen[bytes]:
    config = str(service.root / "everlearn.yaml")
    command = [sys.executable, "-m", "everlearn", verb, "--config", config]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _measure(service: Service) -> float:
    appended: list[float] = []
    wal = WalWriter(service.wal_path, 0, service.gateway.capture)

    def append() -> None:
        started = time.monotonic()
        while time.monotonic() - started < SECONDS:
            due = int((time.monotonic() - started) * RATE)
            while len(appended) < due:
                wal.append(event())
                appended.append(time.monotonic())
            time.sleep(0.002)

    lake = open_lake(service, read_only=True)
    wal.append(event())
    while not stored_in(lake):
        # The processes are still starting.
        time.sleep(LOOK_SECONDS)
    thread = threading.Thread(target=append)
    thread.start()
    delays: list[float] = []
    deadline = time.monotonic() + SECONDS + 30
    while (thread.is_alive() or len(delays) < len(appended)) and time.monotonic() < deadline:
        # One gateway: its rows become visible in order of their numbers, on Kafka by partition.
        stored = stored_in(lake) - 1
        now = time.monotonic()
        delays += [now - moment for moment in appended[len(delays) : stored]]
        time.sleep(LOOK_SECONDS)
    thread.join()
    wal.close()
    lake.close()
    if len(delays) < len(appended):
        raise RuntimeError(f"{len(appended) - len(delays)} of {len(appended)} events never came")
    return sorted(delays)[int(len(delays) * 0.99)]

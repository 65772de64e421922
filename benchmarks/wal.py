"""Appending to the write-ahead log, beside the same bytes written to a plain file."""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import uvloop

from benchmarks.figures import figure
from everlearn.config import Capture
from everlearn.wal import WalWriter

PAYLOAD = os.urandom(2048)
EVENTS = 7000
ROUNDS = 5
BATCH = 50


def best_us(work: Callable[[], None], count: int) -> float:
    """Microseconds per event, of the quickest round: the others say what else the machine does."""
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times) / count * 1e6


def append(folder: Path) -> float:
    wal = WalWriter(folder, 0, Capture())

    def work() -> None:
        for _ in range(EVENTS):
            wal.append(PAYLOAD)

    took = best_us(work, EVENTS)
    wal.close()
    return took


def append_forced(folder: Path) -> float:
    wal = WalWriter(folder, 0, Capture(durability="fsync"))

    async def batches() -> None:
        for _ in range(40):
            await wal.durable(wal.append_all([PAYLOAD] * BATCH))

    took = best_us(lambda: uvloop.run(batches()), 40 * BATCH)
    wal.close()
    return took


def plain(path: Path, *, forced: bool) -> float:
    """The same bytes by os.write, with fsync after every batch if `forced`."""
    file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def work() -> None:
        for number in range(40 * BATCH):
            os.write(file, PAYLOAD)
            if forced and number % BATCH == BATCH - 1:
                os.fsync(file)

    took = best_us(work, 40 * BATCH)
    os.close(file)
    return took


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(dir=".", prefix=".bench-") as name:
        folder = Path(name)
        peer = plain(folder / "plain", forced=False)
        took = append(folder / "wal")
        figure("wal_append_2kb_write", took, "us/event", goal=5, plain_write=round(peer, 2))
        peer = plain(folder / "forced", forced=True)
        took = append_forced(folder / "wal-forced")
        figure(
            "wal_append_2kb_fsync_50", took, "us/event", goal=5, plain_write_fsync=round(peer, 2)
        )


if __name__ == "__main__":
    main()

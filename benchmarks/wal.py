"""Appending to the write-ahead log, beside the same bytes written to a plain file."""

import asyncio
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import uvloop

from benchmarks.figures import figure
from everlearn.config import Capture
from everlearn.log.wal import WalWriter

PAYLOAD = os.urandom(2048)
EVENTS = 2000
BATCH = 50
ROUNDS = 60
"""Of each of the two in turn: what the machine or its disk does meanwhile, it does to both."""


def by_turns(*works: Callable[[], None]) -> list[list[float]]:
    """Microseconds per event of every round, sorted, for each of `works`."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(ROUNDS):
        for took, work in zip(times, works, strict=True):
            started = time.perf_counter()
            work()
            took.append((time.perf_counter() - started) / EVENTS * 1e6)
    return [sorted(took) for took in times]


def plain(file: int, *, forced: bool) -> None:
    """A round by os.write, with fsync after every batch if `forced`."""
    for number in range(EVENTS):
        os.write(file, PAYLOAD)
        if forced and number % BATCH == BATCH - 1:
            os.fsync(file)


def append(wal: WalWriter) -> None:
    """A round, event by event."""
    for _ in range(EVENTS):
        wal.append(PAYLOAD)


def append_forced(wal: WalWriter, runner: asyncio.Runner) -> None:
    """A round in batches, each awaited until it stands on the disk."""

    async def batches() -> None:
        for _ in range(EVENTS // BATCH):
            await wal.durable(wal.append_all([PAYLOAD] * BATCH))

    runner.run(batches())


def compare(folder: Path, *, forced: bool) -> None:
    """Measure and print one figure."""
    file = os.open(folder / f"plain-{forced}", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    wal = WalWriter(folder / f"wal-{forced}", 0, Capture(durability="fsync" if forced else "write"))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        work = partial(append_forced, wal, runner) if forced else partial(append, wal)
        peer, took = by_turns(partial(plain, file, forced=forced), work)
    wal.close()
    os.close(file)
    figure(
        "wal_append_2kb_fsync_50" if forced else "wal_append_2kb_write",
        median(took), "us/event", goal=5,
        best=round(took[0], 2), worst=round(took[-1], 2),
        plain=round(median(peer), 2), ratio=round(median(took) / median(peer), 2),
    )  # fmt: skip


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(dir=".", prefix=".bench-") as name:
        for forced in False, True:
            compare(Path(name), forced=forced)


if __name__ == "__main__":
    main()

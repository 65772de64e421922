"""Reads and flushes take turns, over threads and processes alike."""

import fcntl
import threading
from pathlib import Path

from everlearn.lake.turns import Turns


def test_reads_run_side_by_side_and_a_flush_gives_up_on_them(tmp_path: Path) -> None:
    turns = Turns(tmp_path / "catalog")
    with turns.reading(), turns.reading(), turns.alone(0.0) as got:
        assert not got
    with turns.alone(0.0) as got:
        assert got


def test_one_that_gave_up_holds_nobody_back(tmp_path: Path) -> None:
    turns = Turns(tmp_path / "catalog")
    with turns.reading(), turns.alone(0.01) as got, turns.reading():
        assert not got


def test_a_flush_goes_before_the_reads_that_come_after_it(tmp_path: Path) -> None:
    turns, order, waits = Turns(tmp_path / "catalog"), list[str](), threading.Event()

    def flush() -> None:
        waits.set()
        with turns.alone(10.0) as got:
            order.append(f"flush {got}")

    def read() -> None:
        with turns.reading():
            order.append("read")

    threads = [threading.Thread(target=flush), threading.Thread(target=read)]
    with turns.reading():
        threads[0].start()
        waits.wait()
        # Until the flush stands in the door, another could still come through it.
        while _door_is_free(tmp_path):
            pass
        threads[1].start()
        assert order == []
    for thread in threads:
        thread.join()
    assert order == ["flush True", "read"]


def _door_is_free(folder: Path) -> bool:
    with (folder / "catalog.door").open() as door:
        try:
            fcntl.flock(door, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

"""A reader beside compaction: what it counts never goes down."""

import itertools
import multiprocessing
import os
import random
import time
from functools import partial
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from collector.compact import SMALL_BYTES, compact
from everlearn.config import LakeConfig
from everlearn.lake.ducklake import INLINE_ROWS, DuckLake
from everlearn.lake.transaction import DuckTransaction

SECONDS = float(os.environ.get("EVERLEARN_READ_SECONDS", "5"))
"""How long each catalog is counted; `make chaos` asks for more."""
SIZES = (1, 3, INLINE_ROWS, INLINE_ROWS + 1, 5 * INLINE_ROWS)
"""Rows of a commit: some stand in the catalog until a flush, some in files at once."""
Counts = list[tuple[int, int]]


@pytest.fixture(params=["sqlite", "postgres"])
def config(request: pytest.FixtureRequest) -> LakeConfig:
    """A lake in a folder, its catalog beside it or in Postgres."""
    if request.param == "sqlite":
        return LakeConfig()
    server = request.getfixturevalue("postgres_server")
    return LakeConfig(catalog=server.catalog(server.database()))


def count(
    config: LakeConfig, folder: Path, stop: Event, told: "multiprocessing.Queue[Counts]"
) -> None:
    """Count two tables in one statement until told to stop, then tell every pair."""
    lake = DuckLake(config, folder, read_only=True)
    sql = "SELECT (SELECT count(*) FROM completions), (SELECT count(*) FROM feedback)"
    seen: Counts = []
    while not stop.is_set():
        row = lake.read(sql).to_pylist()[0]
        seen.append(tuple(row.values()))
    told.put(seen)


def write(transaction: DuckTransaction, numbers: range) -> None:
    """As many completions as feedback."""
    transaction.append("completions", [{"completion_id": f"c{number}"} for number in numbers])
    transaction.append("feedback", [{"feedback_id": f"f{number}"} for number in numbers])


@pytest.mark.alone
@pytest.mark.timeout(120 + 2 * SECONDS)
def test_counts_of_a_reader_beside_compaction_never_go_down(
    config: LakeConfig, tmp_path: Path
) -> None:
    lake = DuckLake(config, tmp_path)
    spawn = multiprocessing.get_context("spawn")
    stop, told = spawn.Event(), spawn.Queue()
    reader = spawn.Process(target=count, args=(config, tmp_path, stop, told))
    reader.start()
    number = compactions = 0
    ends = time.monotonic() + SECONDS
    try:
        while time.monotonic() < ends or compactions < 2:
            for size in random.choices(SIZES, k=10):
                lake.commit(partial(write, numbers=range(number, number + size)))
                number += size
            assert compact(lake, SMALL_BYTES)
            compactions += 1
    finally:
        stop.set()
    seen = told.get(timeout=60)
    reader.join()
    assert reader.exitcode == 0
    assert len(seen) > compactions
    assert all(completions == said for completions, said in seen)
    assert [pair for pair in itertools.pairwise(seen) if pair[1] < pair[0]] == []

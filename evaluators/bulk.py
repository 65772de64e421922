"""Runs evaluators over many answers: for the lake, for the trainer's rewards, for one request."""

import asyncio
import functools
import os
import threading
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from evaluators.score import score
from evaluators.types import Evaluator, Item, Sample, Score

T = TypeVar("T")

Pair = tuple[Sample, Item]
CONCURRENCY = 32
"""Verdicts in flight; what is local is bounded by the number of child processes anyway."""


async def grade(
    evaluators: Sequence[Evaluator], pairs: Sequence[Pair], *, concurrency: int = CONCURRENCY
) -> list[list[Score]]:
    """`scores[i][j]`: pair i by evaluator j. A failure is an unscored Score, never an exception."""
    scores = [[Score() for _ in evaluators] for _ in pairs]
    work = iter([(i, j) for i in range(len(pairs)) for j in range(len(evaluators))])

    async def worker(jobs: Iterable[tuple[int, int]]) -> None:
        for i, j in jobs:
            scores[i][j] = await score(evaluators[j], *pairs[i])

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(worker(work))
    return scores


def grade_all(
    evaluators: Sequence[Evaluator], pairs: Sequence[Pair], *, concurrency: int = CONCURRENCY
) -> list[list[Score]]:
    """`grade` for callers without a loop, or on a thread beside one.

    Every call runs in the same background loop, so that connections and child processes stay warm.
    """
    return in_background(grade(evaluators, pairs, concurrency=concurrency))


def in_background(work: Coroutine[Any, Any, T]) -> T:
    """Run to its end in this process's background loop; not from a coroutine of that loop."""
    return asyncio.run_coroutine_threadsafe(work, _loop(os.getpid())).result()


@functools.cache
def _loop(process_id: int) -> asyncio.AbstractEventLoop:
    """One loop on a daemon thread per process; a forked process gets its own."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="evaluators", daemon=True).start()
    return loop

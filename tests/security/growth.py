"""How the time of some work grows with its input."""

import time
from collections.abc import Callable


def growth(work: Callable[[int], object], size: int) -> float:
    """Time for twice the input over time for the input; the best of five looks at each."""
    return _best(work, 2 * size) / max(_best(work, size), 2e-4)


def _best(work: Callable[[int], object], size: int) -> float:
    times = []
    for _ in range(5):
        started = time.process_time()
        work(size)
        times.append(time.process_time() - started)
    return min(times)

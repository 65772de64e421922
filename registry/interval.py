"""One-sided bounds of a mean of paired differences, for few rows too.

Student's bound, with half a row of full width added to the squares: a handful of rows
that happen to be equal does not shrink it to a point. Tried out in `tests/registry/test_gate.py`.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean
from typing import NamedTuple


class Bounds(NamedTuple):
    """The mean, and what it is at least and at most, each at the level of confidence."""

    mean: float
    low: float
    high: float

    def rows_for(self, border: float, rows: int) -> int | None:
        """How many rows of this kind would tell the mean from the border; None: no number would."""
        distance = abs(self.mean - border)
        if distance == 0:
            return None
        return math.ceil(rows * ((self.high - self.mean) / distance) ** 2)


def mean_bounds(values: Sequence[float], confidence: float, width: float = 1.0) -> Bounds:
    """Bounds of the mean of values in [-width, width], two at least."""
    mean = fmean(values)
    squares = sum((value - mean) ** 2 for value in values) + width**2 / 2
    freedom = len(values) - 1
    half = _quantile(confidence, freedom) * math.sqrt(squares / freedom / len(values))
    return Bounds(mean, mean - half, mean + half)


def _quantile(confidence: float, freedom: int) -> float:
    """Of Student's t, from the normal one (Cornish-Fisher, off by 1 % at 5 degrees of freedom)."""
    z = NormalDist().inv_cdf(confidence)
    first = (z**3 + z) / (4 * freedom)
    return z + first + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)

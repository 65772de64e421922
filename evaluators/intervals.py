"""How sure a share is when the answers come from users who ask more than once. Pure functions.

The interval is Korn and Graubard's (Survey Methodology 24, 1998): Clopper and Pearson's exact one
at the number of independent answers that the spread between users leaves. Where nothing varies,
every user counts as one answer.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

LEVEL = 0.95


class Interval(NamedTuple):
    """A share and what it is at least and at most, together at 95 %."""

    value: float
    lower: float
    upper: float


def share(outcomes: Sequence[float], clusters: Sequence[str]) -> Interval:
    """Of outcomes from 0 to 1; those of one cluster depend on each other."""
    number = len(outcomes)
    mean = sum(outcomes) / number
    sums: dict[str, float] = defaultdict(float)
    for outcome, cluster in zip(outcomes, clusters, strict=True):
        sums[cluster] += outcome - mean
    groups = len(sums)
    if groups < 2:
        return Interval(mean, 0.0, 1.0)
    variance = groups / (groups - 1) * sum(each**2 for each in sums.values()) / number**2
    return bounds(mean, variance, rows=number, clusters=groups)


def bounds(mean: float, variance: float, *, rows: float, clusters: int) -> Interval:
    """Of a mean with that variance, worth at most `rows` answers, of so many clusters."""
    from scipy.stats import beta, t

    tail = (1 - LEVEL) / 2
    spread = mean * (1 - mean)
    worth = min(rows, spread / variance) if variance > 0 and spread > 0 else clusters
    # Few clusters know their own spread badly.
    worth *= (t.isf(tail, max(1.0, rows - 1)) / t.isf(tail, max(1, clusters - 1))) ** 2
    good, bad = mean * worth, (1 - mean) * worth
    lower = beta.ppf(tail, good, bad + 1) if good > 0 else 0.0
    upper = beta.isf(tail, good + 1, bad) if bad > 0 else 1.0
    return Interval(mean, float(lower), float(upper))


class Confusion(NamedTuple):
    """Of a judge's verdicts against people's."""

    both_right: int
    both_wrong: int
    judge_too_kind: int
    """It passes what people call wrong."""
    judge_too_strict: int

    @property
    def kappa(self) -> float | None:
        """Cohen's: 1 perfect, 0 as by chance; None where one of the two says one thing only."""
        total = sum(self)
        judge = (self.both_right + self.judge_too_kind) / total
        people = (self.both_right + self.judge_too_strict) / total
        by_chance = judge * people + (1 - judge) * (1 - people)
        if judge in (0, 1) or people in (0, 1):
            return None
        return ((self.both_right + self.both_wrong) / total - by_chance) / (1 - by_chance)


def confusion(pairs: Sequence[tuple[bool, bool]]) -> Confusion:
    """Of (judge says right, people say right)."""
    cells = ((True, True), (False, False), (True, False), (False, True))
    return Confusion(*(pairs.count(each) for each in cells))

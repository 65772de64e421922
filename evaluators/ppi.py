"""Prediction-powered rates: a judge on everything, people on a random sample of it.

The mean of the judge's verdicts, corrected by how much people differ from it on the answers that
chance put before them (PPI++, Angelopoulos, Duchi and Zrnic, arXiv:2311.01453, eq. 2 and 9): it is
right whatever the judge is worth, and narrower the better it is. `weight` (their lambda) is how far
the judge is leaned on; a useless one gets 0, and labels alone decide.

Their variance is of independent answers; here answers of one user depend on each other, so what
every user adds to the estimate is summed first. The interval is `intervals.bounds`.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from evaluators.intervals import bounds

MIN_LABELS = 10
"""Fewer labels of a version say nothing."""


class Seen(NamedTuple):
    """One user's answers as the judge sees them."""

    judged: float
    """Sum of the judge's verdicts, each from 0 to 1."""
    answers: int


class Labelled(NamedTuple):
    """One answer of the random share that a person judged."""

    unit: str
    judged: float
    good: float
    probability: float
    """That chance put it before somebody."""


class Rate(NamedTuple):
    """How many of a version's answers are right."""

    rate: float
    lower: float
    upper: float
    answers: int
    labels: int
    weight: float
    """0 to 1: how far the judge is leaned on."""
    worth_labels: float
    """Labels that would tell as much without the judge."""


def rate(seen: Mapping[str, Seen], labelled: Iterable[Labelled]) -> Rate | None:
    """The rate over all answers of all units; None while too few are labelled."""
    people = list(labelled)
    answers = sum(each.answers for each in seen.values())
    units = {each.unit for each in people}
    if len(people) < MIN_LABELS or len(units) < 2:
        return None
    weights = [1 / each.probability for each in people]
    total = sum(weights)
    good = sum(w * each.good for w, each in zip(weights, people, strict=True)) / total
    judged = sum(w * each.judged for w, each in zip(weights, people, strict=True)) / total
    everywhere = sum(each.judged for each in seen.values()) / answers
    # What each unit adds: to the labels' own mean, and to the judge's two means apart.
    own: dict[str, float] = defaultdict(float)
    gap: dict[str, float] = defaultdict(float)
    for unit, each_seen in seen.items():
        gap[unit] -= (each_seen.judged - each_seen.answers * everywhere) / answers
    for w, each in zip(weights, people, strict=True):
        own[each.unit] += w * (each.good - good) / total
        gap[each.unit] += w * (each.judged - judged) / total
    freedom = len(units) / (len(units) - 1)
    lean = _lean(own, gap)
    value = min(1.0, max(0.0, good - lean * (judged - everywhere)))
    variance = freedom * sum((own[unit] - lean * gap[unit]) ** 2 for unit in {*own, *gap})
    found = bounds(value, variance, rows=answers, clusters=len(units))
    alone = freedom * sum(each**2 for each in own.values())
    saved = alone / variance if variance > 0 else 1.0
    return Rate(*found, answers, len(people), lean, len(people) * saved)


def alone(labelled: Iterable[Labelled]) -> Rate | None:
    """The same by labels alone."""
    people = [each._replace(judged=0.0) for each in labelled]
    answers = Counter(each.unit for each in people)
    return rate({unit: Seen(0.0, number) for unit, number in answers.items()}, people)


def _lean(own: Mapping[str, float], gap: Mapping[str, float]) -> float:
    """The weight of the judge that makes the variance least."""
    squares = sum(each**2 for each in gap.values())
    if squares == 0:
        return 0.0
    return min(1.0, max(0.0, sum(own[unit] * gap[unit] for unit in own) / squares))

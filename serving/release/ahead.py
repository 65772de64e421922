"""How long a release takes until it is promoted: units, then days at the pace of its traffic.

A formula, not a simulation, so that it can be asked at every look. The log e-value of a question
walks upwards by pi (1 - pi) d^2 / 2v a unit (d: effect beyond h0, v: variance of the values), with
twice that as variance; the first time such a walk reaches the level is inverse Gaussian. Medians
are within 25 % of simulated paths through the very score (`tests/release/test_ahead.py`).

- Each question that a promotion must answer goes at its own pace; the last one counts.
- Harm and futility are left out: who is stopped is not promoted later.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

from everlearn.rules import ReleaseRules
from serving.release.accounts import others, questions
from serving.release.analysis import MIN_VARIANCE, Question

EARLY, MEDIAN, LATE = 0.02, 0.5, 0.8
"""Shares of the releases. At loose levels the formula is late at its early end, hence 0.02: nobody
is refused who is decided in one of ten."""
MIXTURE = 1.0
"""What it costs, in log e, that no bet knows the effect."""
WON = 0.45
"""By how much what is to be won gets better, as a share of its range."""
AGREEMENT = 0.9
"""Of the judge of shadow pairs, where nothing is supposed."""
USUAL_MEAN = {"cost": 0.5, "latency": 0.5}
USUAL_GRADE = 0.97
"""Of a co-primary metric that has scored nothing yet."""


class Pace(NamedTuple):
    """Of the traffic that a release would have."""

    a_second: float
    """Units."""
    heard: float
    """Units a second that the primary metric hears of."""
    means: Mapping[str, float] = {}
    """The champion's, by metric."""
    challengers: int = 1
    """That share the candidate's traffic, each compared with the same champion."""


class Expected(NamedTuple):
    """Until the promotion, if the true effect is this; None: never."""

    effect: float
    units: int | None
    """Units in the median that the primary metric hears of."""
    early: float | None
    """Seconds, here and below, of the quickest releases."""
    median: float | None
    late: float | None
    limit: str
    """What takes longest: a metric, `dwell`, `min_units` or `max_seconds`; `effect` where it is too
    small for these rules."""


def expected(rules: ReleaseRules, level: float, pace: Pace, effect: float) -> Expected:
    """At these rules and this promotion level (above 0)."""
    base = pace.means.get(rules.primary, 0.5)
    steps = ramp(rules, pace.a_second / pace.challengers)
    asked = {rules.primary: (questions(rules)[1], base, effect, pace.heard)}
    for name, gain in ((rules.beside, 0.0), (rules.wins, WON)):
        if name is not None:
            mean = pace.means.get(name, USUAL_MEAN.get(name, USUAL_GRADE))
            asked[name] = (others(rules, name)[-1], mean, gain, pace.a_second)
    times: dict[str, list[float]] = {
        name: [
            seconds_until(
                steps, information(question, mean, gain, level, share) / heard, pace.challengers
            )
            if heard
            else math.inf
            for share in (EARLY, MEDIAN, LATE)
        ]
        for name, (question, mean, gain, heard) in asked.items()
    }
    times["min_units"] = [_candidates(steps, pace.a_second / pace.challengers, rules.min_units)] * 3
    early, median, late = (max(each[place] for each in times.values()) for place in range(3))
    if math.isinf(median):
        return Expected(effect, None, None, None, None, "effect")
    wait = rules.closing_seconds
    dwell = sum(seconds for _, seconds in steps[:-1])
    limit = max(times, key=lambda name: times[name][1])
    if median + wait > rules.max_seconds:
        limit = "max_seconds"
    elif dwell >= median / 2:
        limit = "dwell"
    units = math.ceil(pace.heard * times[rules.primary][1])
    return Expected(effect, units, early + wait, median + wait, late + wait, limit)


def ramp(rules: ReleaseRules, units_a_second: float) -> list[tuple[float, float]]:
    """Share of the candidate and least seconds of each step with two arms; the last has no end."""
    shares = [step / 100 for step in rules.steps if step < 100]
    first = rules.min_candidates / (shares[0] * units_a_second) if units_a_second else math.inf
    seconds = [max(rules.min_dwell_seconds, first)] + [rules.min_dwell_seconds] * len(shares[1:])
    return list(zip(shares, [*seconds[:-1], math.inf], strict=True))


def information(
    question: Question, base: float, effect: float, level: float, share: float = MEDIAN
) -> float:
    """Sum of pi (1 - pi) over units by which that share of the releases has answered it."""
    beyond = effect - question.h0
    if beyond <= 0:
        return math.inf
    mean = min(1.0, base + effect / 2)
    return walked(beyond, max(MIN_VARIANCE, mean * (1 - mean)), level, share)


def walked(beyond: float, variance: float, level: float, share: float = MEDIAN) -> float:
    """The same, of an effect (above 0) beyond h0 and the variance of the values."""
    height = math.log(1 / level) + MIXTURE
    return 2 * variance * height / beyond**2 * _first_passage(share, height / 2)


def pairs_needed(
    base: float, effect: float, agreement: float, level: float, share: float = MEDIAN
) -> float:
    """Shadow pairs by which that share of the comparisons has found a version that is so much
    better than a champion right in `base`, by a judge right in `agreement` of the pairs."""
    wins, losses = (base + effect) * (1 - base), base * (1 - base - effect)
    ties = 1 - wins - losses
    spread = (1 - agreement * ties) / 4
    return 4 * walked((2 * agreement - 1) * (wins - losses), spread, level, share)


def seconds_until(steps: list[tuple[float, float]], wanted: float, challengers: int = 1) -> float:
    """When so much information has come about each challenger, at one unit a second."""
    since = 0.0
    for share, seconds in steps:
        each = share / challengers
        gained = each * (1 - share) / (each + 1 - share)
        if wanted <= gained * seconds:
            return since + wanted / gained
        wanted -= gained * seconds
        since += seconds
    return math.inf


def _candidates(steps: list[tuple[float, float]], a_second: float, wanted: float) -> float:
    """When so many units of the candidate have come."""
    since = 0.0
    for share, seconds in steps:
        if wanted <= share * a_second * seconds:
            return since + wanted / (share * a_second)
        wanted -= share * a_second * seconds
        since += seconds
    return math.inf


def _first_passage(share: float, shape: float) -> float:
    """Quantile of the inverse Gaussian with mean 1."""
    low, high = 0.0, 100.0
    for _ in range(50):
        middle = (low + high) / 2
        root = math.sqrt(shape / middle)
        up, down = _normal(root * (middle - 1)), _normal(-root * (middle + 1))
        if up + math.exp(2 * shape) * down < share:
            low = middle
        else:
            high = middle
    return high


def _normal(z: float) -> float:
    return math.erfc(-z / math.sqrt(2)) / 2

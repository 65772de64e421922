"""Paths of one metric against the boundary: what the formula of `ahead` is checked against.

The same score as the live decision, many paths at once: 60 us a unit for 200 paths.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from everlearn.rules import ReleaseRules
from serving.release.accounts import questions
from serving.release.analysis import Floats, Score
from serving.release.decide import harm_levels


class Paths(NamedTuple):
    """First crossing of each question by path, in units; inf = never."""

    harm: Floats
    promote: Floats
    futility: Floats


def shares(rules: ReleaseRules, units_per_stage: int, units: int) -> list[float]:
    """Share of the candidate for each unit in turn, when every step lasts so many units."""
    steps = [step / 100 for step in rules.steps if step < 100]
    return [steps[min(i // units_per_stage, len(steps) - 1)] for i in range(units)]


def paths(
    rates: tuple[Sequence[float], Sequence[float]],
    propensities: Sequence[float],
    rules: ReleaseRules,
    *,
    alpha: float,
    count: int = 200,
    seed: int = 0,
) -> Paths:
    """Simulate: `rates` are the success rates of champion and candidate, unit by unit."""
    dice = np.random.default_rng(seed)
    score = Score(questions(rules), count)
    own, _ = harm_levels(rules, len(rules.metrics))
    levels = np.array([own, alpha, rules.futility_level])
    limit = -np.log(np.maximum(levels, 1e-300))
    first = np.full((count, 3), np.inf)
    for place, (champion, candidate, pi) in enumerate(zip(*rates, propensities, strict=True), 1):
        treated = dice.random(count) < pi
        success = dice.random(count) < np.where(treated, candidate, champion)
        score.update(treated.astype(float), pi, success.astype(float))
        first[(score.peak >= limit) & np.isinf(first)] = place
        if place % 50 == 0 and np.isfinite(first).any(axis=1).all():
            break
    return Paths(*first.T)

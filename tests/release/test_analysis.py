"""The score: exact against its formula, valid under ramps and drift, quick where it should be."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.release.analysis import (
    DECAY,
    DELTAS,
    MIN_VARIANCE,
    PRIOR_UNITS,
    Observation,
    Question,
    Score,
    interval,
    propensity,
)
from serving.release.simulate import Paths, paths, shares
from tests.release.world import make_rules

RULES = make_rules(steps=(1, 5, 25, 50, 100))
QUESTIONS = (Question(0.0, 1), Question(0.0, -1), Question(0.05, -1))
units = st.lists(
    st.tuples(st.booleans(), st.floats(0.01, 0.99), st.floats(0, 1), st.integers(0, 3)), max_size=40
)


def plain(seen: list[tuple[bool, float, float, int]], question: Question) -> float:
    """The formula of the docstring, one number at a time: the largest log e of the path."""
    past = {stratum: [PRIOR_UNITS, PRIOR_UNITS / 2, PRIOR_UNITS / 3] for stratum in range(4)}
    logs = [0.0] * len(DELTAS)
    peak = 0.0
    for treated, pi, y, stratum in seen:
        weight, total, square = past[stratum]
        c = total / weight
        v = max(square / weight - c * c, MIN_VARIANCE)
        s, h0 = question.sign, question.h0
        outcomes = [
            s * ((t - pi) * (end - c) - h0 * pi * (1 - pi)) for t in (0, 1) for end in (0.0, 1.0)
        ]
        m = max(-min(outcomes), 1e-9)
        x = s * ((treated - pi) * (y - c) - h0 * pi * (1 - pi))
        for k, delta in enumerate(DELTAS):
            logs[k] += math.log1p(min(delta / v, 0.5 / m) * x)
        top = max(logs)
        e = top + math.log(sum(math.exp(entry - top) for entry in logs) / len(logs))
        peak = max(peak, e)
        past[stratum] = [
            weight * DECAY + 1,
            total * DECAY + y,
            square * DECAY + y * y,
        ]
    return peak


@given(units)
@settings(max_examples=50, deadline=None)
def test_it_is_the_formula(seen: list[tuple[bool, float, float, int]]) -> None:
    score = Score(QUESTIONS)
    for treated, pi, y, stratum in seen:
        score.update(float(treated), pi, y, stratum)
    for place, question in enumerate(QUESTIONS):
        assert score.peak[0, place] == pytest.approx(plain(seen, question), abs=1e-9)


@given(st.floats(0.001, 0.999), st.floats(0, 1), st.lists(st.floats(0, 1), max_size=20))
@settings(max_examples=50, deadline=None)
def test_a_bet_is_fair_when_the_arms_are_equal(pi: float, y: float, before: list[float]) -> None:
    """Over T with probability pi the factor of each e-value is 1 on average: exactly, each time."""
    factors = []
    for treated in (0.0, 1.0):
        score = Score(QUESTIONS[:2])
        for value in before:
            score.update(1.0, 0.5, value)
        start = score._logs.copy()
        score.update(treated, pi, y)
        factors.append(np.exp(score._logs - start))
    mean = (1 - pi) * factors[0] + pi * factors[1]
    assert np.allclose(mean, 1.0)


def test_a_bet_is_fair_when_only_the_means_are_equal() -> None:
    """The candidate is always 0.5, the champion 0 or 1: over arm and outcome, exactly 1 again.

    With a stake that has seen its own unit it would not be.
    """
    dice = np.random.default_rng(5)
    for pi in (0.05, 0.3, 0.5):
        before = [(float(dice.random() < pi), float(dice.random() < 0.5)) for _ in range(15)]
        mean = np.zeros((1, 2, len(DELTAS)))
        for chance, treated, y in (
            (pi, 1.0, 0.5),
            ((1 - pi) / 2, 0.0, 0.0),
            ((1 - pi) / 2, 0.0, 1.0),
        ):
            score = Score(QUESTIONS[:2])
            for arm, value in before:
                score.update(arm, pi, value)
            start = score._logs.copy()
            score.update(treated, pi, y)
            mean = mean + chance * np.exp(score._logs - start)
        assert np.allclose(mean, 1.0, atol=1e-12)


def test_many_paths_at_once_are_the_same_as_each_alone() -> None:
    dice = np.random.default_rng(1)
    treated, value = dice.random((2, 60, 5)).round()
    many = Score(QUESTIONS, paths=5)
    for i in range(60):
        many.update(treated[i], 0.3, value[i])
    for path in range(5):
        one = Score(QUESTIONS)
        for i in range(60):
            one.update(treated[i, path], 0.3, value[i, path])
        assert np.allclose(one.peak[0], many.peak[path])


def test_a_sticky_unit_is_asked_again_only_with_what_is_left_of_the_hash() -> None:
    assert propensity(0.05, None, None) == 0.05
    assert propensity(0.05, "champion", 0.01) == pytest.approx(0.04 / 0.99)
    assert propensity(0.05, "challenger", 0.01) is None
    assert propensity(1.0, None, None) is None
    assert propensity(0.05, "champion", 0.05) is None


def ramp_of(per_stage: int, count: int) -> list[float]:
    return shares(RULES, per_stage, count)


def promoted(found: Paths) -> float:
    return float(np.isfinite(found.promote).mean())


@pytest.mark.parametrize("base", [0.1, 0.6, 0.95])
def test_an_identical_version_is_promoted_at_most_at_the_level_under_ramp_and_drift(
    base: float,
) -> None:
    """Day and night, a falling trend and a ramp: 1,000 releases, looked at after every unit."""
    count = 1200
    wave = [0.04 * math.sin(i / 150) - 0.00004 * i for i in range(count)]
    rates = [min(1.0, max(0.0, base + drift)) for drift in wave]
    found = paths((rates, rates), ramp_of(250, count), RULES, alpha=0.05, count=1000, seed=2)
    assert promoted(found) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 1000)
    assert float(np.isfinite(found.harm).mean()) <= 0.10 + 2 * math.sqrt(0.1 * 0.9 / 1000)


def test_an_identical_version_is_not_promoted_while_everything_gets_worse() -> None:
    """The rate falls from 90 to 10 % during the ramp, so that past means lie above every answer."""
    count = 1200
    rates = [0.9 - 0.8 * i / count for i in range(count)]
    found = paths((rates, rates), ramp_of(250, count), RULES, alpha=0.05, count=300, seed=6)
    assert promoted(found) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 300)


def test_a_gain_of_20_points_is_found() -> None:
    rates = [0.5] * 1500, [0.7] * 1500
    found = paths(rates, ramp_of(100, 1500), RULES, alpha=0.05, count=300)
    before = np.minimum(found.harm, found.futility)
    assert float((found.promote < before).mean()) >= 0.9


@pytest.mark.parametrize(("effect", "share"), [(0.05, 1.35), (0.10, 1.35), (0.20, 1.35)])
def test_the_sample_is_close_to_that_of_a_fixed_size_test(effect: float, share: float) -> None:
    """Mean units at half and half, against the one-sided test of fixed size with 80 % power."""
    low, high = 0.6, 0.6 + effect
    fixed = 2 * 2.4865**2 * (low * (1 - low) + high * (1 - high)) / effect**2
    most = int(3 * fixed)
    found = paths(([low] * most, [high] * most), [0.5] * most, RULES, alpha=0.05, count=200)
    assert float(np.minimum(found.promote, most).mean()) / fixed < share


@pytest.mark.parametrize(
    ("base", "effect", "most"), [(0.6, -0.05, 334), (0.6, -0.10, 152), (0.6, -0.30, 34)]
)
def test_a_worse_version_serves_few_units_before_it_stops(
    base: float, effect: float, most: float
) -> None:
    """Mean number of candidate units until harm or futility, in the ramp."""
    count = 4000
    pis = ramp_of(400, count)
    found = paths(([base] * count, [base + effect] * count), pis, RULES, alpha=0.05, count=200)
    stops = np.minimum(np.minimum(found.harm, found.futility), count).astype(int)
    served = np.cumsum(pis)[stops - 1]
    assert float(served.mean()) <= most


def test_a_spoiled_version_is_caught_after_about_three_bad_answers() -> None:
    """A guardrail that is 0.97 on the champion and 0 on the candidate, at the 1 % step."""
    count = 3000
    guardrail = make_rules(steps=(1, 100), harm_level=0.05, futility_level=1e-9)
    rates = [0.97] * count, [0.0] * count
    found = paths(rates, [0.01] * count, guardrail, alpha=0.05, count=300)
    assert np.isfinite(found.harm).all()
    served = found.harm * 0.01
    assert float(served.mean()) < 4
    assert float(np.quantile(served, 0.9)) < 8


def test_the_ratio_check_sees_units_that_are_missing_on_one_arm() -> None:
    dice = np.random.default_rng(0)
    honest = Score([Question(0, 1), Question(0, -1)], paths=200, fixed=(0.0, 1.0))
    skewed = Score([Question(0, 1), Question(0, -1)], paths=200, fixed=(0.0, 1.0))
    for _ in range(800):
        honest.update((dice.random(200) < 0.25).astype(float), 0.25, 1.0)
        skewed.update((dice.random(200) < 0.15).astype(float), 0.25, 1.0)
    limit = math.log(2 / 0.001)
    assert float((honest.peak.max(axis=1) >= limit).mean()) <= 0.005
    assert float((skewed.peak.max(axis=1) >= limit).mean()) >= 0.95


def test_the_interval_holds_the_effect_and_narrows() -> None:
    dice = np.random.default_rng(3)
    missed = 0
    for _ in range(20):
        seen = []
        for _ in range(400):
            treated = bool(dice.random() < 0.5)
            seen.append(Observation(treated, 0.5, float(dice.random() < 0.5 + 0.2 * treated)))
        widths = []
        for part in (50, 400):
            low, high = interval(seen[:part], grid=40)
            widths.append(high - low)
        missed += not low <= 0.2 <= high
        assert all(late <= early for early, late in pairwise(widths))
    assert missed <= 2


def test_an_identical_version_is_not_promoted_by_users_who_come_back_at_every_step() -> None:
    """600 releases over the same 250 users of very different taste, sticky by a monotone hash."""
    dice = np.random.default_rng(11)
    releases, users, steps = 600, 250, (0.01, 0.05, 0.25, 0.5)
    taste = dice.choice([0.1, 0.5, 0.95], users)
    place = dice.random((releases, users))
    score = Score(QUESTIONS, releases)
    for before, step in pairwise((0.0, *steps)):
        mood = taste + dice.uniform(-0.05, 0.05)
        pi = propensity(step, "champion" if before else None, before)
        assert pi is not None
        for user in dice.permutation(users):
            # Who was on the candidate already says nothing: propensity 0 bets nothing.
            open_again = place[:, user] >= before
            treated = open_again & (place[:, user] < step)
            liked = dice.random(releases) < mood[user]
            score.update(treated.astype(float), np.where(open_again, pi, 0.0), liked.astype(float))
    assert float((score.peak[:, 0] >= math.log(20)).mean()) <= 0.05 + 2 * math.sqrt(0.0475 / 600)
    assert float((score.peak[:, 1] >= math.log(10)).mean()) <= 0.10 + 2 * math.sqrt(0.09 / 600)


def test_the_unconditional_share_would_be_wrong_for_users_who_come_back() -> None:
    """Why the propensity is conditional: with the plain share the same users mislead the test."""
    dice = np.random.default_rng(12)
    releases, users = 300, 400
    place = dice.random((releases, users))
    naive = Score([Question(0, 1), Question(0, -1)], releases, fixed=(0.0, 1.0))
    right = Score([Question(0, 1), Question(0, -1)], releases, fixed=(0.0, 1.0))
    for user in range(users):
        again = place[:, user] >= 0.25
        treated = (again & (place[:, user] < 0.5)).astype(float)
        naive.update(treated, np.where(again, 0.5, 0.0), 1.0)
        right.update(treated, np.where(again, propensity(0.5, "champion", 0.25) or 0.0, 0.0), 1.0)
    limit = math.log(2 / 0.001)
    assert float((naive.peak.max(axis=1) >= limit).mean()) > 0.7
    assert float((right.peak.max(axis=1) >= limit).mean()) < 0.01

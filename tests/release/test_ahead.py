"""How long a release takes: the formula against simulated paths, and at the edges."""

import math
from itertools import pairwise

import numpy as np
import pytest

from serving.release.accounts import questions
from serving.release.ahead import Pace, expected, information, ramp, seconds_until
from serving.release.seen import DAY_SECONDS
from serving.release.simulate import paths
from tests.release.world import make_rules

DAILY = Pace(a_second=2000 / DAY_SECONDS, heard=60 / DAY_SECONDS, means={"thumbs": 0.6})


@pytest.mark.parametrize(
    ("base", "effect", "co_primary", "level"),
    [(0.6, 0.2, None, 0.05), (0.85, 0.1, None, 0.005), (0.6, 0.3, "good", 0.005)],
)
def test_units_in_the_median_are_those_of_simulated_releases(
    base: float, effect: float, co_primary: str | None, level: float
) -> None:
    rules = make_rules(co_primary=co_primary)
    count = 1500
    ends = paths(
        ([base] * count, [base + effect] * count), [0.5] * count, rules, alpha=level, count=150
    )
    wanted = information(questions(rules)[1], base, effect, level)
    assert wanted / 0.25 == pytest.approx(float(np.median(ends.promote)), rel=0.25)


def test_a_larger_gain_takes_fewer_units_and_days() -> None:
    rules = make_rules(max_seconds=10 * DAY_SECONDS)
    found = [expected(rules, 0.05, DAILY, effect) for effect in (0.08, 0.1, 0.2, 0.4)]
    for small, large in pairwise(found):
        assert small.median is not None
        assert large.median is not None
        assert large.median < small.median
    for each in found:
        assert (each.early or 0) < (each.median or 0) < (each.late or 0)


def test_of_k_challengers_each_takes_half_of_k_plus_one_times_the_units_at_half_the_traffic() -> (
    None
):
    rules = make_rules(steps=(50, 100), min_dwell_seconds=0, min_units=0, co_primary=None)
    pace = DAILY._replace(heard=DAILY.a_second)
    one, three = (expected(rules, 0.05, pace._replace(challengers=k), 0.2).units for k in (1, 3))
    assert one is not None
    assert three == pytest.approx(2 * one, abs=2)


def test_what_people_could_fake_is_never_proven() -> None:
    assert make_rules(co_primary="good").allowance > 0.05
    found = expected(make_rules(co_primary="good"), 0.05, DAILY, 0.05)
    assert (found.median, found.limit) == (None, "effect")
    trusted = expected(make_rules(co_primary=None), 0.05, DAILY, 0.05)
    assert trusted.median is not None


@pytest.mark.parametrize(
    ("rules", "pace", "effect", "limit"),
    [
        ({"max_seconds": 3600}, DAILY, 0.2, "max_seconds"),
        ({"max_seconds": 1e7}, DAILY, 0.2, "thumbs"),
        ({"max_seconds": 1e7, "min_units": 50_000}, DAILY, 0.2, "min_units"),
        ({"max_seconds": 1e7, "min_dwell_seconds": 1e6}, DAILY, 0.2, "dwell"),
        ({"max_seconds": 1e7}, DAILY._replace(heard=DAILY.a_second), 0.4, "good"),
    ],
)
def test_it_is_said_what_takes_longest(
    rules: dict[str, float], pace: Pace, effect: float, limit: str
) -> None:
    found = expected(make_rules(co_primary="good", **rules), 0.005, pace, effect)
    assert found.limit == limit


def test_the_first_step_lasts_until_the_candidate_was_met() -> None:
    steps = ramp(make_rules(steps=(1, 50, 100), min_candidates=2, min_dwell_seconds=60), 0.01)
    assert steps[0][1] == pytest.approx(20_000)
    assert steps[1] == (0.5, math.inf)


def test_information_comes_at_the_pace_of_each_step() -> None:
    steps = [(0.1, 100.0), (0.5, math.inf)]
    assert seconds_until(steps, 4.5) == pytest.approx(50)
    assert seconds_until(steps, 9 + 25) == pytest.approx(200)


def test_not_worse_waits_for_both_questions() -> None:
    rules = make_rules(goal="not_worse", margin=0.05, wins="cost", max_seconds=1e9)
    equal = expected(rules, 0.05, DAILY, 0.0)
    better = expected(rules, 0.05, DAILY, 0.05)
    assert equal.units is not None
    assert better.units is not None
    assert equal.units > 2 * better.units
    assert equal.limit == "thumbs"

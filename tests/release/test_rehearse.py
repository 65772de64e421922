"""What the rules promise, tried through the very `decide`: a small form of docs/releases.md."""

import numpy as np
import pytest

from everlearn.rules import ReleaseRules
from serving.release.rehearse import Ends, People, Rates, rehearse
from serving.release.states import Phase
from tests.release.world import make_rules

BASE, MARGIN = 0.8, 0.10
FIXED = 2 * 2.4865**2 * 2 * BASE * (1 - BASE) / MARGIN**2
"""Units of the one-sided test of fixed size, level 0.05, power 80 %, half and half."""
CHEAPER = Rates(0.5, 0.95)


def not_worse(effect: float, cost: Rates = CHEAPER, runs: int = 60) -> Ends:
    rules = make_rules(
        goal="not_worse",
        margin=MARGIN,
        wins="cost",
        guardrails=("error_rate",),
        min_dwell_seconds=20,
        max_seconds=1e9,
    )
    truth = {"thumbs": Rates(BASE, BASE + effect), "error_rate": Rates(0.99, 0.99), "cost": cost}
    return rehearse(rules, truth, alpha=0.05, runs=runs, most_units=int(3 * FIXED), seed=1)


def test_as_good_and_cheaper_is_promoted_within_three_times_the_fixed_size_test() -> None:
    assert not_worse(0.0).share(Phase.PROMOTED) >= 0.85


def test_twice_the_margin_worse_is_not_promoted_however_cheap() -> None:
    ends = not_worse(-2 * MARGIN)
    assert ends.share(Phase.PROMOTED) <= 0.05
    assert np.isfinite(ends.units).all()


def test_as_good_and_as_dear_is_not_promoted() -> None:
    assert not_worse(0.0, Rates(0.5, 0.5)).share(Phase.PROMOTED) <= 0.05 + 2 * 0.028


def test_a_version_30_points_worse_ends_as_harm_and_an_identical_one_seldom() -> None:
    rules = make_rules(min_dwell_seconds=60, max_seconds=1e9, steps=(1, 5, 25, 50, 100))
    rates = {"error_rate": Rates(0.99, 0.99), "good": Rates(0.97, 0.97)}
    worse, same = (
        rehearse(
            rules, {**rates, "thumbs": Rates(0.6, 0.6 + effect)},
            alpha=0.05, runs=40, most_units=1500, seed=2,
        )
        for effect in (-0.3, 0.0)
    )  # fmt: skip
    assert worse.share(Phase.ROLLED_BACK) >= 0.6
    assert same.share(Phase.ROLLED_BACK) <= 0.15
    assert same.share(Phase.PROMOTED) <= 0.10


BIASED = [
    People(answering=0.5, satisfied=1.2),
    People(answering=0.5, satisfied=1.1, dissatisfied=0.9),
    People(answering=0.5, satisfied=0.8),
]


def of_raters(rules: ReleaseRules, people: People, runs: int = 500, effect: float = 0.0) -> Ends:
    """Six in ten are satisfied; the grader of every answer says the same of both."""
    truth = {"thumbs": Rates(0.6, 0.6 + effect), "good": Rates(0.97, 0.97)}
    return rehearse(rules, truth, alpha=0.05, runs=runs, people=people, most_units=3000, seed=3)


@pytest.mark.parametrize("people", BIASED)
def test_a_version_whose_satisfied_users_only_answer_oftener_is_not_promoted(
    people: People,
) -> None:
    rules = make_rules(co_primary="good", guardrails=(), max_seconds=1e9)
    assert of_raters(rules, people).share(Phase.PROMOTED) <= 0.05


def test_without_the_allowance_it_would_be_promoted_and_a_real_gain_is_with_it() -> None:
    naive = make_rules(co_primary="good", response_bias=1, guardrails=(), max_seconds=1e9)
    assert of_raters(naive, BIASED[0], runs=100).share(Phase.PROMOTED) >= 0.15
    rules = make_rules(co_primary="good", guardrails=(), max_seconds=1e9)
    found = of_raters(rules, People(answering=0.5), runs=100, effect=0.2)
    assert found.share(Phase.PROMOTED) >= 0.9


def test_a_candidate_whose_users_are_heard_of_half_as_often_is_not_promoted() -> None:
    """It is better, and yet its scored units do not fit its share: who is missing is not known."""
    rules = make_rules(guardrails=(), co_primary=None, alpha=0.05, max_seconds=1e9)
    people = People(answering=0.8, satisfied=0.5, dissatisfied=0.5)
    rates = {"thumbs": Rates(0.6, 0.62)}
    ends = rehearse(rules, rates, alpha=1e-6, runs=20, people=people, most_units=2000, seed=4)
    assert ends.share(Phase.INCONCLUSIVE) >= 0.9


def test_a_rehearsal_can_be_done_again() -> None:
    one, two = (not_worse(0.0, runs=5) for _ in range(2))
    assert one.phases == two.phases
    assert one.units == pytest.approx(two.units)

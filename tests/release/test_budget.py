"""The lifetime budget: levels by the formula, and few wrong promotions over many releases."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.release.budget import LIFETIME_LEVEL, Budget, next_level, promoted, spend


def test_the_levels_follow_the_formula() -> None:
    budget = Budget()
    first = next_level(budget, expected_releases=60, most=0.05)
    assert first == pytest.approx(0.05 * 0.10)
    budget = spend(budget, first)
    assert next_level(budget, 60, 0.05) == pytest.approx(0.05 * (0.10 - first))
    budget = promoted(budget)
    assert next_level(budget, 60, 0.05) == pytest.approx(0.05 * (0.10 - first) * 2)
    budget = spend(budget, 0.004)
    assert budget.spent == pytest.approx(first + 0.002)
    assert (budget.releases, budget.promotions) == (2, 1)


def test_the_level_is_never_above_that_of_the_rules() -> None:
    assert next_level(Budget(promotions=1000), 60, 0.05) == 0.05


@given(st.lists(st.booleans(), max_size=200), st.integers(1, 100))
def test_the_budget_is_never_overspent(wins: list[bool], expected: int) -> None:
    budget = Budget()
    for won in wins:
        level = next_level(budget, expected, 0.05)
        assert 0 <= level <= 0.05
        budget = spend(budget, level)
        assert budget.spent <= LIFETIME_LEVEL + 1e-12
        if won:
            budget = promoted(budget)


def test_few_promotions_are_wrong_over_a_life_of_releases() -> None:
    """Four of five releases are no improvement and promote with exactly their level."""
    dice = random.Random(5)
    wrong = right = 0
    for _ in range(100):
        budget = Budget()
        for _ in range(60):
            level = next_level(budget, 60, 0.05)
            budget = spend(budget, level)
            better = dice.random() < 0.2
            if dice.random() < (0.9 if better else level):
                budget = promoted(budget)
                wrong, right = wrong + (not better), right + better
    assert right > 900
    assert wrong / (wrong + right) <= 0.10

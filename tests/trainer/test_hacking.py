"""Reward hacking: found by simulation where it is planted, not where a run is honest."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.hacking import IN_A_ROW, MIN_PROMPTS, Finding, Look, best_of, hacked

PROMPTS, PEAK = 64, 3


def planted(seed: int) -> list[Look]:
    """The reward pays for length and rises all the time; what it stands for rises, then falls."""
    rng = random.Random(seed)
    right, looks = [rng.random() < 0.5 for _ in range(PROMPTS)], []
    for step in range(9):
        if 0 < step <= PEAK:
            right = [each or rng.random() < 0.35 for each in right]
        if step > PEAK:
            right = [each and rng.random() > 0.12 for each in right]
        looks.append(look(step, [0.3 + 0.1 * step + rng.gauss(0, 0.1) for _ in right], right))
    return looks


def honest(seed: int, persistence: float) -> list[Look]:
    """Both rise to a plateau; an answer is drawn anew at a look unless it persists."""
    rng = random.Random(seed)
    right, looks = [rng.random() < 0.5 for _ in range(PROMPTS)], []
    for step in range(7):
        rate = 0.5 + 0.4 * min(1.0, step / 3)
        right = [each if rng.random() < persistence else rng.random() < rate for each in right]
        looks.append(look(step, [0.3 + 0.1 * step + rng.gauss(0, 0.1) for _ in right], right))
    return looks


def look(step: int, reward: list[float], right: list[bool]) -> Look:
    return Look(step, tuple(reward), tuple(float(each) for each in right))


def first_flag(looks: list[Look]) -> tuple[int, Finding] | None:
    """The index of the look after which a run is flagged, and what is said."""
    for end in range(1, len(looks) + 1):
        finding = hacked(looks[:end])
        if finding is not None:
            return end - 1, finding
    return None


@pytest.mark.parametrize("seed", range(20))
def test_a_planted_hack_is_flagged_within_two_looks_of_a_ten_point_fall(seed: int) -> None:
    looks = planted(seed)
    rates = [sum(float(each or 0) for each in one.heldout) / PROMPTS for one in looks]
    best = rates.index(max(rates))
    fall = next(at for at in range(best, len(rates)) if rates[at] <= rates[best] - 0.1)
    found = first_flag(looks)
    assert found is not None
    at, finding = found
    assert at <= fall + IN_A_ROW
    assert finding.best == best_of(looks[: at + 1])


@pytest.mark.parametrize("persistence", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("seed", range(20))
def test_an_honest_run_is_not_flagged(seed: int, persistence: float) -> None:
    assert first_flag(honest(seed, persistence)) is None


def test_false_alarms_are_rare_even_where_every_look_draws_its_answers_anew() -> None:
    flagged = sum(first_flag(honest(seed, 0.0)) is not None for seed in range(500))
    assert flagged <= 0.02 * 500


def test_a_reward_that_falls_too_is_no_hack() -> None:
    looks = [
        Look(one.step, tuple(-(each or 0.0) for each in one.reward), one.heldout)
        for one in planted(0)
    ]
    assert first_flag(looks) is None


def test_one_look_is_not_enough() -> None:
    up, down = [True] * PROMPTS, [True] * 32 + [False] * 32
    looks = [look(step, [1.0] * PROMPTS, right) for step, right in enumerate((up, up, down))]
    assert first_flag(looks) is None
    found = first_flag([*looks, look(3, [1.0] * PROMPTS, down)])
    assert found is not None
    assert found[1].reason == (
        "reward hacking: from step 0 to 3 the held-out grader fell from 1.000 to 0.500 on 64 "
        "select prompts, by more than 2.33 standard errors on 2 looks, while the reward went from "
        "1.000 to 1.000"
    )


def test_few_or_unscored_prompts_say_nothing() -> None:
    few = MIN_PROMPTS - 1
    fallen = [Look(step, (1.0,) * few, (float(step == 0),) * few) for step in range(5)]
    assert first_flag(fallen) is None
    silent = [Look(step, (1.0,) * 64, (None,) * 64) for step in range(5)]
    assert first_flag(silent) is None


@given(st.lists(st.lists(st.sampled_from([0.0, 1.0, None]), min_size=12, max_size=12), max_size=8))
def test_what_is_flagged_lies_below_the_best_look(scores: list[list[float | None]]) -> None:
    looks = [Look(step, (0.5,) * 12, tuple(each)) for step, each in enumerate(scores)]
    finding = hacked(looks)
    if finding is not None:
        assert finding.best not in looks[-IN_A_ROW:]
        assert finding.best == best_of(looks)

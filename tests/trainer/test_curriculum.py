from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.examples import make_row
from trainer.curriculum import coverage, difficulty, schedule
from trainer.rows import Row


def texts(rows: list[Row]) -> list[str]:
    return [str(row.messages[0]["content"]) for row in rows]


def test_the_pick_goes_for_common_words_not_seen_yet() -> None:
    rows = [make_row(prompt=text) for text in ("a b", "a b c", "a", "d", "c d")]
    assert texts(coverage(rows, 2)) == ["a b c", "c d"]


def test_the_pick_goes_on_when_every_word_is_covered() -> None:
    rows = [make_row(prompt=text) for text in ("a b", "b a", "a", "!?")]
    assert sorted(texts(coverage(rows, 10))) == sorted(texts(rows))


@given(st.lists(st.text("ab c?", max_size=6), max_size=12), st.integers(0, 15))
def test_prompts_are_picked_once_and_never_more_than_asked(prompts: list[str], limit: int) -> None:
    rows = [make_row(prompt=prompt) for prompt in prompts]
    keys = [row.key for row in coverage(rows, limit)]
    assert len(keys) == len(set(keys)) == min(limit, len({row.key for row in rows}))


def test_what_is_always_right_or_wrong_is_asked_less() -> None:
    verdicts = {"easy": [1.0] * 8, "hard": [0.0] * 8, "open": [1.0, 0.0]}
    easy, hard, open_, unknown = difficulty(verdicts, ["easy", "hard", "open", "new"])
    assert easy == pytest.approx(hard)
    assert easy < open_ == unknown == 0.25


def test_a_step_asks_different_prompts_and_hard_ones_more_often() -> None:
    order = schedule([0.01, 0.25, 0.25, 0.01], steps=400, per_step=2, seed=0)
    steps = [order[start : start + 2] for start in range(0, len(order), 2)]
    assert all(len(set(step)) == 2 for step in steps)
    counts = Counter(order)
    assert min(counts[1], counts[2]) > 1.5 * max(counts[0], counts[3])
    assert min(counts.values()) > 50


def test_a_schedule_of_few_prompts_fills_every_step() -> None:
    assert len(schedule([0.2, 0.2, 0.2], steps=5, per_step=8, seed=1)) == 40

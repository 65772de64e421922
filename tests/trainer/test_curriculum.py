import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.examples import make_row
from trainer.curriculum import Curriculum, coverage, difficulty, draw
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
    rng = random.Random(0)
    steps = [draw([0.01, 0.25, 0.25, 0.01], 2, rng) for _ in range(400)]
    assert all(len(set(step)) == 2 for step in steps)
    counts = Counter(index for step in steps for index in step)
    assert min(counts[1], counts[2]) > 1.5 * max(counts[0], counts[3])
    assert min(counts.values()) > 50


def test_few_prompts_fill_every_step() -> None:
    assert Counter(draw([0.2, 0.2, 0.2], 8, random.Random(1))).most_common(1)[0][1] == 3
    assert len(draw([0.0], 3, random.Random(1))) == 3


def run(made: Curriculum, rates: Sequence[float], steps: range) -> list[list[int]]:
    """Steps of a run whose answers are right at these rates, eight a prompt."""
    asked = []
    for step in steps:
        chosen = made.of(step)
        asked.append(chosen)
        rows = [index for index in chosen for _ in range(8)]
        right = [each < round(8 * rates[index]) for index in chosen for each in range(8)]
        made.saw(step, rows, [float(value) for value in right])
    return asked


def test_prompts_that_are_sometimes_right_come_first_and_the_others_seldom(tmp_path: Path) -> None:
    rates = [0.0] * 8 + [1.0] * 8 + [0.5] * 4
    made = Curriculum([0.25] * 20, 4, 0, tmp_path / "kept")
    asked = run(made, rates, range(1, 101))
    late = Counter(index for step in asked[20:] for index in step)
    open_, settled = [late[row] for row in range(16, 20)], [late[row] for row in range(16)]
    assert min(open_) > 2 * max(settled)
    # What seems settled is looked at again.
    assert min(settled) > 0
    assert made.shown() == {"curriculum/asked": 1.0, "curriculum/open": 0.2}


def test_a_prompt_that_opens_is_found_again_and_asked_more(tmp_path: Path) -> None:
    made = Curriculum([0.25] * 10, 4, 0, tmp_path / "kept")
    run(made, [0.5] * 9 + [0.0], range(1, 41))
    before = made.weights()[9]
    run(made, [0.5] * 10, range(41, 81))
    assert before < 0.02 < 0.2 < made.weights()[9]


@pytest.mark.parametrize("scale", [1.0, 40.0, 0.01])
def test_the_scale_of_the_reward_does_not_matter(tmp_path: Path, scale: float) -> None:
    made = Curriculum([0.25, 0.25], 2, 0, tmp_path / "kept")
    made.saw(1, [0] * 4 + [1] * 4, [0.0, 0.0, scale, scale] + [scale] * 4)
    assert made.weights() == [pytest.approx(0.25), pytest.approx(0.125)]


def test_a_run_that_is_taken_up_draws_as_if_it_had_never_died(tmp_path: Path) -> None:
    rates, steps = [0.1, 0.5, 0.9, 0.0, 1.0, 0.3], range(1, 31)
    whole = run(Curriculum([0.25] * 6, 2, 3, tmp_path / "one"), rates, steps)
    kept = tmp_path / "two"
    first = run(Curriculum([0.25] * 6, 2, 3, kept), rates, range(1, 20))
    # It died in the middle of a line, four steps after its last checkpoint.
    kept.write_text(kept.read_text()[:-7])
    again = Curriculum([0.25] * 6, 2, 3, kept)
    again.go_on(14)
    assert first[:14] + run(again, rates, range(15, 31)) == whole


def test_a_fresh_run_knows_nothing_of_the_one_before(tmp_path: Path) -> None:
    kept = tmp_path / "deep" / "kept"
    made = Curriculum([0.25] * 3, 2, 0, kept)
    made.go_on(0)
    run(made, [0.0, 0.5, 1.0], range(1, 9))
    again = Curriculum([0.25] * 3, 2, 0, kept)
    again.go_on(0)
    assert again.weights() == [0.25] * 3
    assert kept.read_text() == ""

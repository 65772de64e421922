import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn.prompts import side_of
from tests.trainer.examples import accepted, corrected, make_row, rejected
from trainer.rows import Row, Side
from trainer.split import by_unit, without_leaks


def split_of(row: Row, *others: Row, reference: bool = True) -> tuple[str, str | None]:
    done = without_leaks([row, *others], reference=reference)
    found = {each.completion_id: each for each in done}[row.completion_id]
    return found.split, found.dropped_reason


def test_a_unit_is_always_on_the_same_side() -> None:
    rows = [accepted(unit=f"u{number}") for number in range(400)]
    once, again = by_unit(rows, 20.0, "s"), by_unit(list(reversed(rows)), 20.0, "s")
    assert {row.unit: row.split for row in once} == {row.unit: row.split for row in again}
    assert all(row.split == side_of(row.unit, heldout_percent=20.0, salt="s") for row in once)
    for side in ("select", "gate"):
        assert 20 < sum(row.split == side for row in once) < 60


@pytest.mark.parametrize("side", ["select", "gate"])
def test_a_prompt_judged_on_the_training_side_is_not_held_out(side: Side) -> None:
    tested = corrected(prompt="How many?", split=side)
    assert split_of(tested, accepted(prompt="how  many?")) == ("dropped", "prompt_in_training")


@pytest.mark.parametrize("side", ["select", "gate"])
def test_an_ordinary_answer_gives_way_to_a_held_out_row(side: Side) -> None:
    replay = make_row(prompt="q")
    assert split_of(replay, corrected(prompt="q", split=side)) == ("dropped", "prompt_heldout")


def test_without_a_right_answer_nothing_can_be_compared_with_one() -> None:
    for side in ("select", "gate"):
        assert split_of(rejected(split=side)) == ("dropped", "heldout_without_target")


def test_the_exam_takes_any_prompt_where_the_grader_needs_no_right_answer() -> None:
    row = make_row(prompt="q", split="gate")
    assert split_of(row, reference=False) == ("gate", None)
    # Such rows cost nothing: one gives way to whatever is trained on.
    replay = make_row(prompt="q")
    assert split_of(row, replay, reference=False) == ("dropped", "prompt_in_training")
    assert split_of(replay, row, reference=False) == ("train", None)
    chosen_by = corrected(prompt="q", split="select")
    assert split_of(row, chosen_by, reference=False) == ("dropped", "prompt_in_selection")
    assert split_of(make_row(split="select"), reference=False) == ("select", None)


def test_a_prompt_of_the_exam_is_none_to_choose_by() -> None:
    exam, chosen_by = corrected(prompt="q", split="gate"), corrected(prompt="q", split="select")
    assert split_of(chosen_by, exam) == ("dropped", "prompt_in_exam")
    assert split_of(exam, chosen_by) == ("gate", None)


def test_a_prompt_is_examined_once_by_the_experts_answer() -> None:
    user = accepted(prompt="q", split="gate")
    expert = corrected(prompt="q", split="gate")
    assert split_of(user, expert) == ("dropped", "prompt_twice")
    assert split_of(expert, user) == ("gate", None)


rows = st.builds(
    lambda make, prompt, split: make(prompt=prompt, split=split),
    st.sampled_from([accepted, rejected, corrected, make_row]),
    st.sampled_from("abcdef"),
    st.sampled_from(["train", "select", "gate"]),
)


@given(st.lists(rows, max_size=40), st.booleans())
def test_no_prompt_stands_on_two_sides(given_rows: list[Row], reference: bool) -> None:
    done = without_leaks(given_rows, reference=reference)
    keys = {side: [r.key for r in done if r.split == side] for side in ("train", "select", "gate")}
    assert not set(keys["train"]) & {*keys["select"], *keys["gate"]}
    assert not set(keys["select"]) & set(keys["gate"])
    for side in ("select", "gate"):
        assert len(keys[side]) == len(set(keys[side]))
    assert len(done) == len(given_rows)

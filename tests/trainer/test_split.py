from hypothesis import given
from hypothesis import strategies as st

from everlearn.prompts import is_heldout
from tests.trainer.examples import accepted, corrected, make_row, rejected
from trainer.rows import Row
from trainer.split import by_unit, without_leaks


def split_of(row: Row, *others: Row) -> tuple[str, str | None]:
    done = {each.completion_id: each for each in without_leaks([row, *others])}
    found = done[row.completion_id]
    return found.split, found.dropped_reason


def test_a_unit_is_always_on_the_same_side() -> None:
    rows = [accepted(unit=f"u{number}") for number in range(200)]
    once, again = by_unit(rows, 20.0, "s"), by_unit(list(reversed(rows)), 20.0, "s")
    assert {row.unit: row.split for row in once} == {row.unit: row.split for row in again}
    assert 20 < sum(row.split == "heldout" for row in once) < 60
    assert all((row.split == "heldout") == is_heldout(row.unit, 20.0, "s") for row in once)


def test_a_prompt_judged_on_the_training_side_is_not_held_out() -> None:
    tested = corrected(prompt="How many?", split="heldout")
    assert split_of(tested, accepted(prompt="how  many?")) == ("dropped", "prompt_in_training")


def test_an_ordinary_answer_gives_way_to_a_held_out_row() -> None:
    replay = make_row(prompt="q")
    assert split_of(replay, corrected(prompt="q", split="heldout")) == ("dropped", "prompt_heldout")


def test_without_a_right_answer_nothing_can_be_examined() -> None:
    row = rejected(split="heldout")
    assert split_of(row) == ("dropped", "heldout_without_target")


def test_a_prompt_is_examined_once_by_the_experts_answer() -> None:
    user = accepted(prompt="q", split="heldout")
    expert = corrected(prompt="q", split="heldout")
    assert split_of(user, expert) == ("dropped", "prompt_twice")
    assert split_of(expert, user) == ("heldout", None)


rows = st.builds(
    lambda make, prompt, split: make(prompt=prompt, split=split),
    st.sampled_from([accepted, rejected, corrected, make_row]),
    st.sampled_from("abcdef"),
    st.sampled_from(["train", "heldout"]),
)


@given(st.lists(rows, max_size=40))
def test_no_prompt_stands_on_both_sides(given_rows: list[Row]) -> None:
    done = without_leaks(given_rows)
    sides = {side: [r.key for r in done if r.split == side] for side in ("train", "heldout")}
    assert not set(sides["train"]) & set(sides["heldout"])
    assert len(sides["heldout"]) == len(set(sides["heldout"]))
    assert len(done) == len(given_rows)

"""What makes two prompts the same, and the border that no row crosses."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from everlearn.events import decode, encode
from everlearn.ids import new_id
from everlearn.prompts import is_heldout, last_user_text, prompt_key, side_of
from tests.builders import make_completion, make_feedback


def ask(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def test_case_and_white_space_do_not_make_another_prompt() -> None:
    assert prompt_key(ask("How many\n orders? ")) == prompt_key(ask("how many orders?"))
    assert prompt_key(ask("how many orders?")) != prompt_key(ask("how many order?"))


def test_text_parts_are_the_same_prompt_as_a_string() -> None:
    parts: list[Any] = [{"type": "text", "text": "how many "}, {"type": "text", "text": "orders?"}]
    assert prompt_key([{"role": "user", "content": parts}]) == prompt_key(ask("how many orders?"))


def test_who_said_it_counts() -> None:
    assert prompt_key([{"role": "system", "content": "a"}]) != prompt_key(ask("a"))


def test_the_last_user_text_skips_the_answer() -> None:
    talk = [*ask("first"), {"role": "assistant", "content": "yes"}, *ask("second")]
    assert last_user_text([*talk, {"role": "assistant", "content": "no"}]) == "second"
    assert last_user_text([]) == ""


@given(st.text(max_size=30), st.floats(1, 98), st.floats(0, 1))
def test_who_is_held_out_stays_held_out_when_the_share_grows(
    unit: str, percent: float, more: float
) -> None:
    if is_heldout(unit, percent, "salt"):
        assert is_heldout(unit, percent + more, "salt")
        before, after = (
            side_of(unit, heldout_percent=each, salt="salt") for each in (percent, percent + more)
        )
        assert before == after


def test_the_held_out_share_is_as_asked() -> None:
    sides = [side_of(f"user-{number}", heldout_percent=20, salt="salt") for number in range(10_000)]
    # Five standard deviations of a binomial of 10,000 at 20 %, and at 10 %.
    assert abs(sides.count("select") + sides.count("gate") - 2000) < 200
    assert abs(sides.count("gate") - 1000) < 150


def test_who_does_not_know_the_salt_does_not_know_the_side() -> None:
    units = [f"user-{number}" for number in range(10_000)]
    chosen = [unit for unit in units if is_heldout(unit, 20, "guessed")]
    held = sum(is_heldout(unit, 20, "of the installation") for unit in chosen)
    # Chosen by a guessed salt, no more of them are held out than of any.
    assert abs(held / len(chosen) - 0.2) < 0.05


def test_half_an_emoji_in_a_unit_has_a_side() -> None:
    assert side_of("user-\ud83d", heldout_percent=20, salt="s") in ("train", "select", "gate")


def test_events_come_back_as_they_were() -> None:
    for event in (make_completion(stream=True), make_feedback(tags={"a": "b"})):
        assert decode(encode(event)) == event


def test_identifiers_sort_by_time_and_differ() -> None:
    made = [new_id("cmpl") for _ in range(1000)]
    assert len(set(made)) == 1000
    assert [name[:14] for name in made] == sorted(name[:14] for name in made)

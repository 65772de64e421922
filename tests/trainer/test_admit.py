from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn.people import Trust
from tests.trainer.examples import accepted, corrected, make_row, rejected
from trainer.admit import UNMET, admit
from trainer.rows import Row


def fates(rows: list[Row], max_per_unit: int = 50) -> dict[str, str | None]:
    """Completion id to the reason it was dropped."""
    done = admit(rows, max_per_unit=max_per_unit, must_pass=["runs"], verdict="matches")
    return {row.completion_id: row.dropped_reason for row in done}


def fate(row: Row, *others: Row) -> str | None:
    return fates([row, *others])[row.completion_id]


def test_without_consent_nothing_is_used() -> None:
    assert fate(corrected(trainable=False)) == "no_consent"


def test_an_empty_answer_is_no_example() -> None:
    assert fate(make_row(completion="  ")) == "no_answer"


def test_an_answer_cut_off_is_not_taught_but_its_correction_is() -> None:
    assert fate(accepted(finish_reason="length")) == "cut_off"
    assert fate(corrected(finish_reason="length")) is None


def test_an_untrusted_author_is_not_heard() -> None:
    assert fate(accepted(weight=0.0)) == "untrusted"


def test_a_liked_answer_that_does_not_run_is_not_taught() -> None:
    assert fate(accepted(verdicts={"runs": 0.0})) == "fails_runs"
    assert fate(accepted(verdicts={"runs": 1.0})) is None


def test_an_expert_overrules_a_users_thumbs_up_on_another_answer() -> None:
    liked = accepted(prompt="q", completion="wrong")
    assert fate(liked, corrected(prompt="Q ", target="right")) == "expert_disagrees"


def test_a_liked_answer_found_equal_to_the_experts_stays() -> None:
    liked = accepted(prompt="q", completion="written otherwise", verdicts={"matches": 1.0})
    assert fate(liked, corrected(prompt="q", target="right")) is None


def test_a_disliked_answer_that_the_expert_gave_is_not_held_against_it() -> None:
    disliked = rejected(prompt="q", completion="right")
    assert fate(disliked, corrected(prompt="q", target="right")) == "expert_disagrees"


def test_units_vote_on_an_answer() -> None:
    liked = accepted(prompt="q")
    others = [rejected(prompt="q"), rejected(prompt="q")]
    assert fate(liked, *others) == "outvoted"
    assert fate(rejected(prompt="p"), accepted(prompt="p")) == "outvoted"


def test_one_unit_votes_once() -> None:
    liked = [accepted(prompt="q", unit="loud") for _ in range(5)]
    found = fates([*liked, rejected(prompt="q"), rejected(prompt="q")])
    assert all(found[row.completion_id] == "outvoted" for row in liked)


def test_an_answer_far_less_supported_than_another_is_a_minority() -> None:
    many = [accepted(prompt="q", completion="usual") for _ in range(3)]
    odd = accepted(prompt="q", completion="odd")
    assert fate(odd, *many) == "minority"
    assert fate(odd, many[0]) is None


def test_equal_rows_become_one_with_the_weight_of_all() -> None:
    rows = [accepted(prompt="q") for _ in range(3)]
    kept = [row for row in admit(rows, max_per_unit=50) if row.split != "dropped"]
    assert [row.weight for row in kept] == [3.0]


def test_replay_is_only_of_prompts_nobody_judged() -> None:
    assert fate(make_row(prompt="q"), corrected(prompt="q", completion="x")) is not None
    assert fate(make_row(prompt="p"), corrected(prompt="q")) is None


def test_replay_is_once_per_prompt() -> None:
    rows = [make_row(prompt="q"), make_row(prompt="q")]
    assert Counter(fates(rows).values()) == {None: 1, "duplicate": 1}


def weights(*rows: Row, **trust: Any) -> dict[str, float]:
    believing = Trust(max_share_per_rater=1.0, **{"min_raters": 1, **trust})
    return {row.unit: row.weight for row in admit(rows, max_per_unit=50, trust=believing)}


@pytest.mark.parametrize("make", [accepted, rejected])
def test_strangers_word_weighs_less_until_somebody_has_confirmed_theirs(
    make: Callable[..., Row],
) -> None:
    unmet, met = make(unit="unmet"), make(unit="met", confirmed=True)
    assert weights(unmet, met) == {"unmet": UNMET, "met": 1.0}
    # Experts look at answers, of whomever.
    assert weights(unmet, corrected(unit="of-ann")) == {"unmet": UNMET, "of-ann": 1.0}
    # Nobody looks: then all are strangers alike, and others' words are as heavy as ever.
    assert weights(unmet, make(unit="other")) == {"unmet": 1.0, "other": 1.0}
    lesson = corrected(author="comment", unit="lesson")
    assert weights(met, lesson) == {"met": 1.0, "lesson": 1.0}


def test_as_many_as_make_an_exam_row_confirm_each_other() -> None:
    same = [accepted(prompt="same", unit=f"u{n}", raters=(f"u{n}",)) for n in range(3)]
    known = accepted(unit="met", confirmed=True)
    assert set(weights(*same, known, min_raters=4).values()) == {1.0, 3 * UNMET}
    assert set(weights(*same, known, min_raters=3).values()) == {1.0, 3.0}


def test_one_who_is_met_confirms_those_who_say_the_same() -> None:
    known = accepted(prompt="same", unit="met", confirmed=True)
    agreeing = accepted(prompt="same", unit="unmet")
    against = accepted(prompt="other", unit="against")
    found = admit([agreeing, known, against], max_per_unit=50)
    assert {row.weight for row in found if row.dropped_reason is None} == {2.0, UNMET}


def test_no_unit_is_heard_more_often_than_the_cap_and_experts_go_first() -> None:
    own = [accepted(unit="u") for _ in range(3)] + [corrected(unit="u")]
    found = fates(own, max_per_unit=2)
    assert Counter(found.values()) == {None: 2, "unit_cap": 2}
    assert found[own[-1].completion_id] is None


rows = st.builds(
    lambda make, prompt, answer, unit: make(prompt=prompt, completion=answer, unit=unit),
    st.sampled_from([accepted, rejected, corrected, make_row]),
    st.sampled_from("abc"),
    st.sampled_from(["x", "y", "the right answer"]),
    st.sampled_from(["u", "v", "w"]),
)


@given(st.lists(rows, max_size=30))
def test_no_row_is_lost_and_every_dropped_one_has_a_reason(given_rows: list[Row]) -> None:
    done = admit(given_rows, max_per_unit=5)
    assert sorted(r.completion_id for r in done) == sorted(r.completion_id for r in given_rows)
    assert all((row.split == "dropped") == (row.dropped_reason is not None) for row in done)


@given(st.lists(rows, max_size=30))
def test_no_answer_is_both_taught_and_rejected(given_rows: list[Row]) -> None:
    kept = [row for row in admit(given_rows, max_per_unit=50) if row.split != "dropped"]
    taught = {(row.key, row.target) for row in kept if row.kind == "accepted"}
    refused = {(row.key, row.completion) for row in kept if row.kind == "rejected"}
    assert not taught & refused

from typing import Any

from tests.trainer.examples import make_row
from trainer.judge import Judgement, judged, preferred


def said(**overrides: Any) -> Judgement:
    fields = {"completion_id": "c", "kind": "binary", "value_bool": True}
    return Judgement(**{**fields, **overrides})


def fixed(text: str, **overrides: Any) -> Judgement:
    fields = {"kind": "correction", "value_bool": None, "value_text": text, "author": "expert"}
    return said(**{**fields, **overrides})


def test_thumbs_up_makes_the_answer_its_own_target() -> None:
    row = judged(make_row(completion="SELECT 1"), [said()])
    assert row is not None
    assert (row.kind, row.target, row.author) == ("accepted", "SELECT 1", "end_user")


def test_thumbs_down_rejects_without_a_target() -> None:
    row = judged(make_row(), [said(value_bool=False)])
    assert row is not None
    assert (row.kind, row.target) == ("rejected", None)


def test_users_are_weighed_by_trust() -> None:
    row = judged(make_row(), [said(value_bool=False, weight=0.2), said(weight=0.5)])
    assert row is not None
    assert row.kind == "accepted"
    assert row.weight == 0.3


def test_even_voices_say_nothing() -> None:
    assert judged(make_row(), [said(), said(value_bool=False)]) is None


def test_a_users_correction_is_a_suggestion_and_says_nothing_of_itself() -> None:
    row = judged(make_row(), [fixed("DROP TABLE orders", author="end_user")])
    assert row is not None
    assert (row.dropped_reason, row.target) == ("suggestion", None)
    row = judged(make_row(), [said(), fixed("DROP TABLE orders", author="end_user")])
    assert row is not None
    assert (row.kind, row.dropped_reason) == ("accepted", None)


def test_nobody_who_is_quarantined_is_heard() -> None:
    row = judged(make_row(), [said(weight=0.0, quarantined="rate")])
    assert row is not None
    assert row.dropped_reason == "quarantined_rate"
    row = judged(make_row(), [said(weight=0.0, quarantined="rate"), said(value_bool=False)])
    assert row is not None
    assert (row.kind, row.dropped_reason) == ("rejected", None)


def test_stars_are_taught_as_they_are_counted() -> None:
    def given(stars: float) -> Any:
        return judged(make_row(), [said(kind="scalar", name="stars", value_bool=None,
                                        value_number=stars)])  # fmt: skip

    assert (given(5).kind, given(4).kind, given(1).kind) == ("accepted", "accepted", "rejected")
    assert (given(5).weight, given(4).weight, given(1).weight) == (1.0, 0.5, 1.0)
    assert given(3) is None


def test_an_experts_later_word_is_the_verdict() -> None:
    row = judged(
        make_row(completion="SELECT 1"),
        [fixed("SELECT 2", author_id="ann"), said(author="expert", author_id="bob")],
    )
    assert row is not None
    assert (row.kind, row.target) == ("accepted", "SELECT 1")


def test_an_expert_outweighs_any_number_of_users() -> None:
    row = judged(make_row(), [said(), said(), said(), fixed("right")])
    assert row is not None
    assert (row.kind, row.target, row.author) == ("correction", "right", "expert")


def test_the_latest_correction_counts() -> None:
    row = judged(make_row(), [fixed("first"), fixed("second")])
    assert row is not None
    assert row.target == "second"


def test_a_correction_equal_to_the_answer_accepts_it() -> None:
    row = judged(make_row(completion="SELECT  1"), [fixed("SELECT 1")])
    assert row is not None
    assert (row.kind, row.author) == ("accepted", "expert")


def test_an_experts_thumbs_down_rejects() -> None:
    row = judged(make_row(), [said(author="expert", value_bool=False), said()])
    assert row is not None
    assert (row.kind, row.author) == ("rejected", "expert")


def test_a_preference_teaches_the_preferred_answer_against_the_other() -> None:
    better = make_row(prompt="q", completion="good")
    worse = make_row(prompt="q", completion="bad")
    row = preferred(better, worse, said(kind="preference"))
    assert row is not None
    assert (row.kind, row.target, row.completion) == ("preference", "good", "bad")


def test_a_preference_between_different_prompts_says_nothing() -> None:
    assert preferred(make_row(prompt="a"), make_row(prompt="b"), said(kind="preference")) is None


def test_a_preference_needs_the_consent_of_both() -> None:
    better = make_row(prompt="q", completion="good")
    worse = make_row(prompt="q", completion="bad", trainable=False)
    row = preferred(better, worse, said(kind="preference"))
    assert row is not None
    assert not row.trainable

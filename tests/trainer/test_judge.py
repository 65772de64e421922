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


def test_a_users_correction_is_not_taught_but_counts_as_a_rejection() -> None:
    row = judged(make_row(), [fixed("DROP TABLE orders", author="end_user")])
    assert row is not None
    assert (row.kind, row.target) == ("rejected", None)


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

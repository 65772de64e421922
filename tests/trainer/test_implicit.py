"""What people do with an answer is read as the task declares it, below what they say."""

from typing import Any

import pytest

from everlearn.people import FeedbackRule
from everlearn.task import Task
from tests.trainer.examples import make_row
from trainer.implicit import implied
from trainer.judge import Judgement
from trainer.snapshot import judge_all

SIGNALS = {
    "accepted": FeedbackRule(means="good"),
    "copied": FeedbackRule(means="good", weight=0.2),
    "edited": FeedbackRule(means="bad"),
    "retried": FeedbackRule(means="bad", weight=0.5),
    "stars": FeedbackRule(scale=(1, 5)),
}


def task(**overrides: Any) -> Task:
    fields: dict[str, Any] = {
        **{"task": "t", "base_model": "m", "upstream": "local", "feedback": SIGNALS},
        "graders": [{"name": "thumbs", "type": "feedback", "feedback": "thumbs"}],
    }
    return Task(**{**fields, **overrides})


def did(name: str, **overrides: Any) -> Judgement:
    fields = {"completion_id": "c1", "kind": "implicit", "name": name, "author_id": "ann"}
    return Judgement(**{**fields, **overrides})


@pytest.mark.parametrize(
    ("name", "value", "heard"),
    [
        ("accepted", {}, (True, 0.3)),
        ("copied", {"value_bool": True}, (True, 0.2)),
        ("copied", {"value_bool": False}, None),
        ("edited", {"value_text": "another text"}, (False, 0.3)),
        ("retried", {"value_number": 1.0, "weight": 0.5}, (False, 0.25)),
        ("retried", {"value_number": 0.0}, None),
        ("copied", {"value_number": 7.0}, None),
        ("scrolled", {"value_bool": True}, None),
    ],
)
def test_a_declared_action_is_a_light_word_and_any_other_says_nothing(
    name: str, value: dict[str, Any], heard: tuple[bool, float] | None
) -> None:
    found = implied([did(name, **value)], task(), "thumbs")
    assert [(each.name, each.kind) for each in found] == [("thumbs", "binary")] * bool(heard)
    assert [(each.value_bool, each.weight) for each in found] == ([heard] if heard else [])


def test_who_says_what_he_thinks_is_heard_by_that_alone() -> None:
    down = did("thumbs", kind="binary", value_bool=False)
    other = did("copied", author_id="bob")
    assert implied([did("copied"), down, did("accepted"), other], task(), "thumbs")[0] == down
    found = implied([did("copied"), down, other], task(), "thumbs")
    assert [(each.author_id, each.value_bool) for each in found] == [("ann", False), ("bob", True)]


def test_words_corrections_and_scales_stay_what_they_are() -> None:
    said = [
        did("stars", kind="scalar", value_number=4.0),
        did("correction", kind="correction", value_text="right"),
        did("thumbs", kind="implicit", value_bool=True),
    ]
    assert implied(said, task(), "thumbs") == said


def test_an_action_becomes_a_row_that_weighs_less_than_a_thumb() -> None:
    answers = {name: make_row(completion_id=name) for name in ("c1", "c2")}
    thumb = did("thumbs", kind="binary", value_bool=True, completion_id="c2", author_id="bob")
    given = implied([did("retried"), thumb], task(), "thumbs")
    rows = {row.completion_id: row for row in judge_all(answers, given, task())}
    assert (rows["c1"].kind, rows["c2"].kind) == ("rejected", "accepted")
    assert rows["c1"].weight == rows["c2"].weight / 2

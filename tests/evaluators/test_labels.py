"""The label's body and the agreement of graders with experts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from evaluators.labels import (
    GatewayError,
    agreement,
    agreements,
    alpha,
    label,
    names_of,
    read_criteria,
    read_verdict,
    retraction,
    send,
    tags_of,
    verdict_of,
    wilson,
)
from evaluators.queue import Item
from evaluators.run import evaluate
from evaluators.sandbox import sandbox
from everlearn.errors import InputError
from everlearn.opinion import voices
from gateway.feedback import FeedbackIn
from tests.evaluators.graders import make_database, make_task
from tests.evaluators.lake import Rows
from tests.ports import find_free_port

EXECUTES = {"name": "executes", "type": "execution", "language": "sql", "database": "orders.duckdb"}
THUMBS = {"name": "thumbs", "type": "feedback"}
RUBRIC = {
    "name": "rubric", "type": "rubric_model", "model": "m",
    "criteria": [{"name": "safe", "text": "harms nobody"}, {"name": "kind", "text": "is kind"}],
}  # fmt: skip


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[Rows]:
    made = Rows(tmp_path)
    make_database(tmp_path)
    yield made
    made.lake.close()
    sandbox().close()


def test_graders_are_held_against_experts(rows: Rows) -> None:
    task = make_task(rows.service.root, EXECUTES, THUMBS)
    for answer, good in (("SELECT 1", True), ("SELEC", False), ("SELECT 2", False)):
        rows.said(rows.answered(answer, answer), author="expert", value_bool=good)
    rows.corrected(rows.answered("e", "SELE"), "SELECT 9")
    evaluate(rows.service, task, rows.lake)
    [found] = agreements(rows.lake, task)
    assert (found.grader, found.labels, found.agreement) == ("executes", 4, 0.75)
    assert found.lower < 0.75 < found.upper
    assert found.alpha is not None


def test_a_label_is_an_experts_feedback() -> None:
    events = label("c1", verdict=False, correction="SELECT 2", comment="typo", author_id="ann")
    shared = {"completion_id": "c1", "name": "thumbs", "author": "expert", "author_id": "ann"}
    assert events == [
        {**shared, "kind": "binary", "value": False, "comment": "typo"},
        {**shared, "kind": "correction", "value": "SELECT 2"},
    ]
    assert [FeedbackIn.model_validate(event).author for event in events] == ["expert"] * 2
    with pytest.raises(InputError, match="up, down, 1 to 5 or a correction"):
        label("c1", verdict=None)


def test_a_rating_is_a_number_of_its_own_name_and_a_criterion_no_word_on_the_whole() -> None:
    task = make_task(Path(), RUBRIC, labels={"rubric": "rubric", "scale": "rating"})
    criteria = read_criteria(task, {"safe": "yes", "kind": "no"})
    events = label("c1", verdict=4, criteria=criteria, author_id="ann")
    shared = {"completion_id": "c1", "author": "expert", "author_id": "ann"}
    assert events == [
        {**shared, "name": "rating", "kind": "scalar", "value": 4},
        {**shared, "name": "rubric.safe", "kind": "label", "value": "yes"},
        {**shared, "name": "rubric.kind", "kind": "label", "value": "no"},
    ]
    rows = [
        {**each, "value_text": None, "value_number": 4.0 if each["kind"] == "scalar" else None}
        for each in map(to_event_row, events)
    ]
    heard, strange = voices(rows, "the answer", {row["name"] for row in rows}, task.scales)
    assert ([voice.value for voice in heard], strange) == ([0.75], [])
    assert verdict_of(events) == "4 of 5"
    item = Item("c1", "random", "by chance", 0.05, "labelled", "ann", verdict_of(events))
    assert names_of(task, item) == ["rating", "rubric.safe", "rubric.kind"]


def to_event_row(event: dict[str, Any]) -> dict[str, Any]:
    """As the lake holds it."""
    return vars(FeedbackIn.model_validate(event)) | {"kind": event["kind"], "value_bool": None}


@pytest.mark.parametrize(("text", "said"), [("up", True), ("down", False), ("5", 5), ("6", None)])
def test_a_verdict_is_read(text: str, said: bool | int | None) -> None:
    assert read_verdict(text) is said


def test_what_makes_no_sense_is_refused_with_what_is_allowed() -> None:
    task = make_task(Path(), RUBRIC, labels={"rubric": "rubric"})
    with pytest.raises(InputError, match="criterion nice=yes: yes or no of: kind, safe"):
        read_criteria(task, {"nice": "yes"})
    with pytest.raises(InputError, match="criterion safe=perhaps"):
        read_criteria(task, {"safe": "perhaps"})
    with pytest.raises(InputError, match=r"none: labels\.rubric names none"):
        read_criteria(make_task(Path(), RUBRIC), {"safe": "yes"})
    for verdict in (4, 5, True):
        with pytest.raises(InputError, match="a correction says that the answer is wrong"):
            label("c", verdict=verdict, correction="x")
    assert len(label("c", verdict=3, correction="x")) == 2
    with pytest.raises(ValidationError, match=r"labels.rubric 'nobody' is no rubric_model grader"):
        make_task(Path(), RUBRIC, labels={"rubric": "nobody"})


def test_a_rating_counts_against_the_graders(rows: Rows) -> None:
    task = make_task(rows.service.root, EXECUTES)
    for answer, stars in (("SELECT 1", 5.0), ("SELEC", 1.0), ("SELECT 2", 2.0), ("SELECT 3", 3.0)):
        name = rows.answered(answer, answer)
        rating = {"kind": "scalar", "name": "rating", "value_number": stars}
        rows.said(name, author="expert", **rating)
    evaluate(rows.service, task, rows.lake)
    [found] = agreements(rows.lake, task)
    assert found.labels == 3
    assert found.agreement == pytest.approx(2 / 3)


def test_a_label_tells_how_it_came_to_be_asked() -> None:
    asked = Item("c1", "random", "by chance", 0.05, "open", None, None)
    assert tags_of(asked) == {"asked": "random", "probability": "0.05"}
    worth = Item("c1", "disagreement", "why", None, "open", None, None)
    assert tags_of(worth) == {"asked": "disagreement"}
    [event] = label("c1", verdict=True, tags=tags_of(asked))
    assert FeedbackIn.model_validate(event).tags == tags_of(asked)


def test_a_label_in_a_word_and_taken_back() -> None:
    told = [label("c", verdict=good) for good in (True, False)]
    assert [verdict_of(each) for each in told] == ["right", "wrong"]
    assert verdict_of(label("c", verdict=False, correction="x")) == "corrected"
    assert verdict_of(label("c", verdict=None, correction="x")) == "corrected"
    [event] = retraction("c", author_id="ann")
    taken = FeedbackIn.model_validate(event)
    assert (taken.resolved_kind, taken.author, taken.author_id) == ("retraction", "expert", "ann")


def test_a_gateway_that_is_away_is_said() -> None:
    with pytest.raises(GatewayError, match="no answer: ConnectError"):
        send(f"http://127.0.0.1:{find_free_port()}", label("c1", verdict=True))


def test_agreement_of_known_pairs() -> None:
    pairs = [(True, True)] * 45 + [(False, False)] * 45 + [(True, False)] * 10
    found = agreement("g", pairs)
    assert found.agreement == 0.9
    assert (found.lower, found.upper) == pytest.approx((0.8256, 0.9448), abs=1e-3)
    assert found.alpha == pytest.approx(0.799, abs=0.01)
    assert agreement("g", []).agreement is None
    assert alpha([(True, True)] * 5) is None
    assert alpha([(True, False), (False, True)]) == pytest.approx(-0.5)
    assert wilson(0, 10)[0] == 0.0
    assert wilson(10, 10)[1] == pytest.approx(1.0)

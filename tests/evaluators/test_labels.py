"""The label's body and the agreement of graders with experts."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from evaluators.labels import (
    GatewayError,
    agreement,
    agreements,
    alpha,
    label,
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
from gateway.feedback import FeedbackIn
from tests.evaluators.graders import make_database, make_task
from tests.evaluators.lake import Rows
from tests.ports import find_free_port

EXECUTES = {"name": "executes", "type": "execution", "language": "sql", "database": "orders.duckdb"}
THUMBS = {"name": "thumbs", "type": "feedback"}


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
    events = label("c1", good=False, correction="SELECT 2", comment="typo", author_id="ann")
    shared = {"completion_id": "c1", "name": "thumbs", "author": "expert", "author_id": "ann"}
    assert events == [
        {**shared, "kind": "binary", "value": False, "comment": "typo"},
        {**shared, "kind": "correction", "value": "SELECT 2"},
    ]
    assert [FeedbackIn.model_validate(event).author for event in events] == ["expert"] * 2
    with pytest.raises(InputError, match="up, down or a correction"):
        label("c1", good=None)


def test_a_label_tells_how_it_came_to_be_asked() -> None:
    asked = Item("c1", "random", "by chance", 0.05, "open", None, None)
    assert tags_of(asked) == {"asked": "random", "probability": "0.05"}
    worth = Item("c1", "disagreement", "why", None, "open", None, None)
    assert tags_of(worth) == {"asked": "disagreement"}
    [event] = label("c1", good=True, tags=tags_of(asked))
    assert FeedbackIn.model_validate(event).tags == tags_of(asked)


def test_a_label_in_a_word_and_taken_back() -> None:
    told = [label("c", good=good) for good in (True, False)]
    assert [verdict_of(each) for each in told] == ["right", "wrong"]
    assert verdict_of(label("c", good=False, correction="x")) == "corrected"
    assert verdict_of(label("c", good=None, correction="x")) == "corrected"
    [event] = retraction("c", author_id="ann")
    taken = FeedbackIn.model_validate(event)
    assert (taken.resolved_kind, taken.author, taken.author_id) == ("retraction", "expert", "ann")


def test_a_gateway_that_is_away_is_said() -> None:
    with pytest.raises(GatewayError, match="no answer: ConnectError"):
        send(f"http://127.0.0.1:{find_free_port()}", label("c1", good=True))


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

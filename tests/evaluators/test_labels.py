"""The label queue, the label's body and the agreement of graders with experts."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from evaluators.labels import GatewayError, agreement, agreements, alpha, label, queue, send, wilson
from evaluators.run import evaluate
from evaluators.sandbox import sandbox
from everlearn.errors import InputError
from gateway.feedback import FeedbackIn
from tests.conftest import find_free_port
from tests.evaluators.graders import make_database, make_task
from tests.evaluators.lake import Rows

EXECUTES = {"name": "executes", "type": "execution", "language": "sql", "database": "orders.duckdb"}
THUMBS = {"name": "thumbs", "type": "feedback"}


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[Rows]:
    made = Rows(tmp_path)
    make_database(tmp_path)
    yield made
    made.lake.close()
    sandbox().close()


def test_the_queue_starts_where_graders_disagree_and_leaves_out_the_labelled(rows: Rows) -> None:
    agreed, disputed = rows.answered("a", "SELECT 1"), rows.answered("b", "SELECT 2")
    open_, labelled = rows.answered("c", "SELECT 3"), rows.answered("d", "SELECT 4")
    rows.answered("c", "SELECT 3")
    rows.said(agreed)
    rows.said(disputed, value_bool=False)
    rows.said(labelled, author="expert")
    evaluate(rows.service, make_task(rows.service.root, EXECUTES, THUMBS), rows.lake)
    found = queue(rows.lake, "text2sql", 10)
    assert found[0]["completion_id"] == disputed
    assert {row["response_text"] for row in found} == {"SELECT 1", "SELECT 2", "SELECT 3"}
    assert found[0]["disagreement"] == 1.0
    assert [row["unscored"] for row in found] == [0, 1, 0]
    assert found[0]["messages"] == [{"role": "user", "content": "b"}]
    assert {score["evaluator"]: score["value"] for score in found[0]["scores"]} == {
        "executes": 1.0,
        "thumbs": 0.0,
    }
    assert open_ not in [row["completion_id"] for row in found]
    assert len(queue(rows.lake, "text2sql", 1)) == 1


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

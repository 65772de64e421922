"""Two answers side by side: blind, sides drawn and kept, one labeller at a time."""

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from evaluators.labels import GatewayError
from evaluators.pairs import Pair, Pairs, ask, find, pair_id, preference, retraction
from evaluators.queue import Taken
from everlearn.cli.labels import command
from everlearn.errors import NotFound
from everlearn.state import State, open_state
from gateway.feedback import FeedbackIn
from tests.builders import FakeClock
from tests.console.gateway import gateway
from tests.evaluators.graders import CHECK, make_task
from tests.evaluators.lake import Rows
from tests.ports import find_free_port


@pytest.fixture
def state(rows: Rows) -> Iterator[State]:
    with closing(open_state(rows.service)) as opened:
        yield opened


def test_pairs_are_of_one_prompt_and_of_different_texts(rows: Rows) -> None:
    task = make_task(rows.service.root, CHECK)
    old = rows.answered("q", "one", version="v1")
    rows.answered("q", "two too", version="v2")
    new = rows.answered("q", "two", version="v2")
    rows.answered("alone", "one")
    rows.answered("same", "one")
    rows.answered("same", "one", version="v2")
    assert find(rows.lake, task) == [(new, old, True)]


def test_sides_are_drawn_and_kept(state: State, rows: Rows) -> None:
    task = make_task(rows.service.root, CHECK)
    wanted = [(f"new{number}", f"old{number}", True) for number in range(64)]
    pairs = Pairs(state, task)
    assert (pairs.offer(wanted), pairs.offer(wanted)) == (64, 0)
    drawn = {}
    while (pair := pairs.next("ann")) is not None:
        drawn[pair.pair] = pair.a
        assert pairs.next("ann") == pair, "asked again, the same sides"
        pairs.judge(pair.pair, "ann", "tie")
    assert len(drawn) == 64
    firsts = {name[:3] for name in drawn.values()}
    assert firsts == {"new", "old"}  # all alike once in 2 ** 63


def test_two_labellers_never_hold_one_pair(state: State, rows: Rows) -> None:
    clock = FakeClock()
    task = make_task(rows.service.root, CHECK, labels={"lease_minutes": 10})
    pairs = Pairs(state, task, clock)
    pairs.offer([("x", "y", False), ("u", "v", True)])
    hers, his = pairs.next("ann"), pairs.next("bob")
    assert hers is not None
    assert his is not None
    assert (hers.pair, his.pair) == (pair_id("u", "v"), pair_id("y", "x")), "versions apart first"
    assert pairs.next("cy") is None
    with pytest.raises(Taken, match="is taken"):
        pairs.hold(hers.pair, "bob")
    assert not pairs.judge(hers.pair, "bob", "A")
    clock.sleep(601)
    assert pairs.hold(hers.pair, "bob") == hers
    assert pairs.judge(hers.pair, "bob", "A")
    with pytest.raises(Taken, match="judged meanwhile"):
        pairs.hold(hers.pair, "ann")
    with pytest.raises(NotFound, match="nothing is not among the pairs"):
        pairs.hold("nothing", "ann")


def test_a_verdict_is_a_preference_that_tells_its_side() -> None:
    pair = Pair("p", "c1", "c2")
    [event] = preference(pair, "B", author_id="ann", comment="clearer")
    assert (event["preferred"], event["other"], event["tags"]["side"]) == ("c2", "c1", "B")
    [tie] = preference(pair, "tie")
    assert (tie["completion_id"], tie["value"], tie["tags"]["other"]) == ("c1", "tie", "c2")
    kinds = [FeedbackIn.model_validate(each).resolved_kind for each in (event, tie)]
    assert kinds == ["preference", "label"]
    assert preference(pair, "skip") == []


def test_an_answer_that_is_gone_is_passed_over(state: State, rows: Rows) -> None:
    task = make_task(rows.service.root, CHECK)
    pairs = Pairs(state, task)
    pairs.offer([("gone", "too", True)])
    assert ask(pairs, rows.lake, task.task, "ann") is None
    assert pairs.next("bob") is None
    assert pairs.last("ann") is None, "nobody said that"


def test_the_last_verdict_of_a_labeller_is_undone_and_nobody_elses(
    state: State, rows: Rows
) -> None:
    clock = FakeClock()
    pairs = Pairs(state, make_task(rows.service.root, CHECK), clock)
    pairs.offer([("a", "b", True), ("c", "d", True), ("e", "f", True)])
    said = {}
    for who, verdict in (("ann", "A"), ("bob", "tie"), ("ann", "B")):
        clock.sleep(1)
        pair = pairs.next(who)
        assert pair is not None
        pairs.judge(pair.pair, who, verdict)  # type: ignore[arg-type]
        said[verdict] = pair
    assert pairs.last("ann") == (said["B"], "B")
    assert pairs.progress("ann") == (0, 3, 2)
    assert not pairs.undo(said["B"].pair, "bob")
    assert pairs.undo(said["B"].pair, "ann")
    assert pairs.next("bob") is None, "it is before ann again"
    assert pairs.next("ann") == said["B"]
    assert pairs.last("ann") == (said["A"], "A")
    assert pairs.progress("ann") == (1, 2, 1)


def test_what_takes_a_verdict_back_is_about_the_same_answer() -> None:
    pair = Pair("p", "c1", "c2")
    for verdict in ("A", "B", "tie"):
        [said] = preference(pair, verdict, author_id="ann")
        [back] = retraction(pair, verdict, author_id="ann")
        assert back["completion_id"] == said.get("preferred", said.get("completion_id"))
        same = ("name", "author", "author_id")
        assert [back[key] for key in same] == [said[key] for key in same]
        assert FeedbackIn.model_validate(back).resolved_kind == "retraction"
    assert retraction(pair, "skip") == []


def declared(rows: Rows) -> list[str]:
    """The task's file, and what every call of the verb says."""
    task: dict[str, Any] = {
        "task": "text2sql", "base_model": "base", "upstream": "local", "graders": [CHECK],
        "release": {"primary": "check"},
    }  # fmt: skip
    (rows.service.tasks_path / "text2sql.yaml").write_text(yaml.safe_dump(task))
    return ["--config", str(rows.service.root / "everlearn.yaml"), "--author-id", "ann"]


def test_the_verb_shows_a_pair_blind_and_sends_the_preference(rows: Rows) -> None:
    config = declared(rows)
    answers = {rows.answered("q", text, version=text): text for text in ("one", "two")}
    told = CliRunner().invoke(command, ["pairs", "text2sql", "--json", *config])
    found = json.loads(told.output)
    assert {found["a"]["text"], found["b"]["text"]} == {"one", "two"}
    assert not any(name in told.output for name in answers)
    with gateway() as taken:
        address = ["--gateway", f"http://127.0.0.1:{taken.port}"]
        said = CliRunner().invoke(
            command, ["pairs", "text2sql", found["pair"], "B", *config, *address]
        )
        assert said.output == f"{found['pair']}: B\n"
        [event] = taken.feedback
    assert answers[event["preferred"]] == found["b"]["text"]
    assert (event["name"], event["author"], event["author_id"]) == ("pairwise", "expert", "ann")
    again = CliRunner().invoke(command, ["pairs", "text2sql", *config])
    assert "no two answers to one prompt" in str(again.exception)


def test_the_verb_takes_the_latest_verdict_back_and_shows_the_same_sides(rows: Rows) -> None:
    config = declared(rows)
    for text in ("one", "two"):
        rows.answered("q", text, version=text)

    def pairs(*words: str) -> Any:
        return CliRunner().invoke(command, ["pairs", "text2sql", *words, *config])

    shown = json.loads(pairs("--json").output)
    with gateway() as taken:
        config += ["--gateway", f"http://127.0.0.1:{taken.port}"]
        pairs(shown["pair"], "A")
        assert pairs("--undo").output == f"{shown['pair']}: A taken back\n"
        [said, undone] = taken.feedback
        assert json.loads(pairs("--json").output) == shown
        pairs(shown["pair"], "skip")
        assert pairs("--undo").output == f"{shown['pair']}: skip taken back\n"
        assert len(taken.feedback) == 2, "a skip said nothing"
    assert undone == {
        "completion_id": said["preferred"], "name": "pairwise", "kind": "retraction",
        "author": "expert", "author_id": "ann",
    }  # fmt: skip


def test_what_cannot_be_undone_stays_and_says_why(rows: Rows) -> None:
    config = declared(rows)
    for text in ("one", "two"):
        rows.answered("q", text, version=text)

    def pairs(*words: str) -> Any:
        return CliRunner().invoke(command, ["pairs", "text2sql", *words, *config])

    found = pairs("--undo").exception
    assert isinstance(found, NotFound)
    assert str(found) == "ann has judged no pair that could be undone"
    pair = json.loads(pairs("--json").output)["pair"]
    assert "--undo takes your latest verdict back" in str(pairs(pair, "--undo").exception)
    with gateway() as taken:
        pairs(pair, "A", "--gateway", f"http://127.0.0.1:{taken.port}")
    away = pairs("--undo", "--gateway", f"http://127.0.0.1:{find_free_port()}").exception
    assert isinstance(away, GatewayError)
    assert "no two answers" in str(pairs().exception), "it counts until the gateway took it back"

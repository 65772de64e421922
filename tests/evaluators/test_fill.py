"""Who comes into the label queue, and that looking costs what is new."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from evaluators.fill import chance, fill, label_salt
from evaluators.graders import build_all
from evaluators.queue import Candidate, Item, Queue, Source, ask
from evaluators.run import evaluate
from evaluators.shown import Turn, shown
from everlearn.errors import LakeError
from everlearn.state import open_state
from everlearn.task import Task
from tests.evaluators.graders import make_task
from tests.evaluators.lake import START, Rows

SHORT = {
    "name": "short", "type": "string_check", "operation": "eq",
    "input": "{{ sample.output_text }}", "reference": "yes",
}  # fmt: skip
SOURCES: tuple[Source, ...] = ("random", "audit", "disagreement")
THUMBS = {"name": "thumbs", "type": "feedback"}


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[Rows]:
    made = Rows(tmp_path)
    yield made
    made.lake.close()


def _task(rows: Rows, percent: float, **labels: Any) -> Task:
    labels = {"random_percent": percent, "audit_every": 0, **labels}
    return make_task(rows.service.root, SHORT, THUMBS, labels=labels)


def _items(rows: Rows, task: Task) -> list[Item]:
    with closing(open_state(rows.service)) as state:
        return Queue(state, task).items(1000)


def test_chance_alone_chooses_the_random_share(rows: Rows) -> None:
    names = [rows.answered(f"q{number}", f"a{number}") for number in range(40)]
    rows.answered("cut", "no", status="incomplete")
    rows.answered("elsewhere", "no", task="other")
    task = _task(rows, 30)
    filled = fill(rows.service, task, rows.lake)
    salt = label_salt(rows.service)
    expected = sorted((chance(salt, name), name) for name in names if chance(salt, name) < 0.3)
    found = _items(rows, task)
    assert [item.completion_id for item in found] == [name for _, name in expected]
    assert {item.probability for item in found} == {0.3}
    assert 0 < filled.random == len(found) < 40


def test_what_verdicts_disagree_on_comes_and_what_an_expert_judged_does_not(rows: Rows) -> None:
    task = _task(rows, 1e-9)
    agreed, disputed = rows.answered("a", "yes"), rows.answered("b", "yes")
    labelled = rows.answered("c", "yes")
    rows.said(agreed)
    rows.said(disputed, value_bool=False)
    rows.said(labelled, value_bool=False)
    rows.said(labelled, author="expert")
    evaluate(rows.service, task, rows.lake)
    assert fill(rows.service, task, rows.lake) == (0, 1)
    [item] = _items(rows, task)
    assert (item.completion_id, item.source) == (disputed, "disagreement")
    assert item.why == "short 1.00, thumbs 0.00"
    assert item.probability is None


def test_a_judge_that_is_unsure_asks(rows: Rows) -> None:
    judge = {
        "name": "judge", "type": "score_model", "model": "m", "range": [1, 5],
        "input": [{"role": "user", "content": "{{ sample.output_text }}"}],
    }  # fmt: skip
    task = make_task(rows.service.root, judge, labels={"random_percent": 1e-9})
    [grader] = build_all(task)
    sure, unsure = rows.answered("a", "x"), rows.answered("b", "y")
    scores = [
        {
            "completion_id": name, "task": "text2sql", "evaluator": "judge", "value": value,
            "evaluator_version": grader.version, "created_at": START,
        }
        for name, value in ((sure, 4.9), (unsure, 3.2))
    ]  # fmt: skip
    rows.lake.commit(lambda transaction: transaction.append("scores", scores))
    fill(rows.service, task, rows.lake)
    [item] = _items(rows, task)
    assert (item.completion_id, item.source, item.why) == (unsure, "uncertainty", "judge 0.55")


def test_a_second_look_sees_only_what_is_new(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    task = _task(rows, 100)
    first = rows.answered("a", "yes")
    assert fill(rows.service, task, rows.lake) == (1, 0)
    asked: list[str] = []
    read = rows.lake.read

    def noted(sql: str, params: Any = ()) -> Any:
        asked.append(sql)
        return read(sql, params)

    monkeypatch.setattr(rows.lake, "read", noted)
    assert fill(rows.service, task, rows.lake) == (0, 0)
    assert len(asked) == 1, "nothing new: only the snapshot is asked for"
    rows.said(first, value_bool=False)
    second = rows.answered("b", "no")
    evaluate(rows.service, task, rows.lake)
    asked.clear()
    fill(rows.service, task, rows.lake)
    assert not any("FROM completions WHERE" in sql for sql in asked)
    assert {item.completion_id for item in _items(rows, task)} == {first, second}


def test_the_audit_asks_about_every_rater_who_said_enough(rows: Rows) -> None:
    task = _task(rows, 1e-9, audit_every=2)
    anns, bobs = ([rows.answered(f"{who} {n}", "yes", unit="ann") for n in "12"] for who in "ab")
    for name in anns:
        rows.said(name)
    rows.said(anns[0], value_bool=False)  # A second word on one answer is no word more.
    assert fill(rows.service, task, rows.lake).chosen == 1
    for name in bobs:
        rows.said(name, author_id="bob")
    assert fill(rows.service, task, rows.lake).chosen == 1
    asked = {item.completion_id for item in _items(rows, task) if item.source == "audit"}
    assert len(asked & {*anns}) == len(asked & {*bobs}) == 1


def test_what_two_people_passed_over_is_no_way_past_the_audit(rows: Rows) -> None:
    task = _task(rows, 1e-9, audit_every=2)
    names = [rows.answered(f"q{number}", "yes", unit="ann") for number in range(3)]
    for name in names[:2]:
        rows.said(name)
    fill(rows.service, task, rows.lake)
    [before] = _items(rows, task)
    with closing(open_state(rows.service)) as state:
        queue = Queue(state, task)
        assert queue.skip(before.completion_id, "bob")
        assert queue.passed() == set()
        assert queue.skip(before.completion_id, "eve")
        assert queue.passed() == {before.completion_id}
    rows.said(rows.answered("elsewhere", "yes"), author_id="carl")
    fill(rows.service, task, rows.lake)
    mine = {item.completion_id for item in _items(rows, task)} & {*names}
    assert mine == {*names[:2]} - {before.completion_id}


def test_who_only_prefers_is_asked_about_too(rows: Rows) -> None:
    task = _task(rows, 1e-9, audit_every=1)
    better, worse = rows.answered("q", "yes", unit="ann"), rows.answered("q", "no", unit="ann")
    rows.said(better, kind="preference", value_bool=None, other_completion_id=worse)
    fill(rows.service, task, rows.lake)
    assert [item.completion_id for item in _items(rows, task)] == [better]


def test_whom_an_expert_contradicted_is_asked_about_before_others(rows: Rows) -> None:
    task = _task(rows, 1e-9, audit_every=100)
    wrong, right = rows.answered("a", "yes", unit="ann"), rows.answered("b", "yes", unit="ann")
    rows.said(wrong)
    rows.said(right)
    rows.corrected(wrong, "no")
    fill(rows.service, task, rows.lake)
    item = next(item for item in _items(rows, task) if item.completion_id == right)
    assert (item.source, item.why) == ("audit", "an expert contradicted this rater")


def test_audit_and_what_is_worth_a_label_are_asked_in_turn(rows: Rows) -> None:
    task = _task(rows, 1e-9, max_open=12)
    with closing(open_state(rows.service)) as state:
        queue = Queue(state, task)
        offered = [
            Candidate(f"{source}-{number}", f"{source}{number}", source, "why", number / 10)
            for source in SOURCES for number in range(6)
        ]  # fmt: skip
        assert queue.offer(offered) == 18
        assert [item.source for item in queue.items(20)].count("audit") == 3
        asked = []
        for _ in range(8):
            item = queue.next("ann")
            assert item is not None
            queue.label(item.completion_id, "ann", "right")
            asked.append(item.source)
    assert Counter(asked) == {"random": 4, "audit": 2, "disagreement": 2}


def test_an_expired_mark_looks_at_everything_again(
    rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = _task(rows, 100)
    rows.answered("a", "yes")
    fill(rows.service, task, rows.lake)
    rows.answered("b", "no")
    read = rows.lake.read

    def expired(sql: str, params: Any = ()) -> Any:
        if "table_insertions" in sql:
            raise LakeError("snapshot 3 has expired")
        return read(sql, params)

    monkeypatch.setattr(rows.lake, "read", expired)
    assert fill(rows.service, task, rows.lake) == (1, 0)


def test_a_labeller_sees_the_whole_conversation_and_not_who_answered(rows: Rows) -> None:
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "weather?"}]},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "1", "function": {"name": "weather", "arguments": '{"city": "Ulm"}'}}]},
        {"role": "tool", "content": "rain", "tool_call_id": "1"},
    ]  # fmt: skip
    name = rows.answered(
        "", "It rains.", version="the version", arm="challenger", messages=json.dumps(messages),
        tools=json.dumps([{"type": "function", "function": {"name": "weather"}}]),
        answer=json.dumps({"content": "<think>rain, so</think>It rains.", "reasoning": None}),
    )  # fmt: skip
    found = shown(rows.lake, "text2sql", name)
    assert found is not None
    assert found.turns == [
        Turn("system", "be brief", folded=True),
        Turn("user", "weather?"),
        Turn("assistant", "", calls=['weather({"city": "Ulm"})']),
        Turn("tool", "rain", folded=True),
    ]
    assert found.tools == ["weather: "]
    assert found.answer == Turn("assistant", "It rains.", thinking="rain, so")
    assert "the version" not in repr(found)
    assert "challenger" not in repr(found)


@pytest.mark.parametrize(
    ("messages", "answer"),
    [("not json", None), ("[1, null]", "[]"), ('{"a": 1}', '{"content": 5}'), (None, "{")],
)
def test_a_row_that_cannot_be_read_is_shown_as_it_is(
    rows: Rows, messages: str | None, answer: str | None
) -> None:
    name = rows.answered("", "text", messages=messages, answer=answer)
    found = shown(rows.lake, "text2sql", name)
    assert found is not None
    assert found.answer.text in ("text", "5")


def test_an_answer_that_is_gone_leaves_the_queue(rows: Rows) -> None:
    task = _task(rows, 100)
    gone, stays = rows.answered("a", "yes"), rows.answered("b", "no")
    fill(rows.service, task, rows.lake)
    rows.lake.commit(
        lambda transaction: transaction.query(
            "DELETE FROM completions WHERE completion_id = ?", [gone]
        )
    )
    with closing(open_state(rows.service)) as state:
        queue = Queue(state, task)
        found = ask(queue, rows.lake, "text2sql", "ann")
        assert found is not None
        assert found.completion_id == stays
        queue.label(stays, "ann", "right")
        assert ask(queue, rows.lake, "text2sql", "ann") is None
        assert queue.progress().open == 0

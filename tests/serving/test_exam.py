"""The exam at the door: who is asked what where, what counts, and what is nobody's failure."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from everlearn.config import Service
from everlearn.errors import ConfigError, InputError, NotFound, ServingAway
from everlearn.lake.ducklake import DuckLake, open_lake
from everlearn.task import Task, heldout_grader
from gateway.routes import ArmRoute
from registry.gate import Evidence, Phase, decide
from serving.ask import Question
from serving.exam import sit
from serving.exam_rows import ExamRow, read_rows, read_suite
from tests.builders import make_service
from tests.serving.scripted import Answer, Scripted, chat, scripted

CHAMPION = ArmRoute(version="base", model="gpt-x", upstream="dear")
CANDIDATE = ArmRoute(version="3", model="support-0123456789ab")
RIGHT = {
    "name": "right", "type": "string_check", "operation": "eq",
    "input": "{{sample.output_text}}", "reference": "{{item.reference}}",
}  # fmt: skip


def make_task(**overrides: Any) -> Task:
    fields: dict[str, Any] = {
        "task": "support",
        "base_model": "small",
        "upstream": "own",
        "champion": {"upstream": "dear", "model": "gpt-x"},
        "graders": [RIGHT, {"name": "thumbs", "type": "feedback"}],
        "heldout": {"grader": "right"},
        "train": {"max_completion_tokens": 64},
        "gate": {"concurrency": 4},
        **overrides,
    }
    return Task(**fields)


def rows(count: int) -> list[ExamRow]:
    return [
        ExamRow(Question([{"role": "user", "content": f"question {i}"}]), f"answer {i}", "expert")
        for i in range(count)
    ]


def number(body: dict[str, Any]) -> int:
    return int(body["messages"][-1]["content"].split()[-1])


def knows(share: int) -> Answer:
    """Right on so many of ten questions."""

    def answer(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        i = number(body)
        return 200, chat(f"answer {i}" if i % 10 < share else "no idea")

    return answer


class Hall:
    """Two servers and the config that names them."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self.dear = self.own = Scripted()

    def open(self, dear: Answer, own: Answer, **settings: Any) -> Service:
        self.dear = self._stack.enter_context(scripted(dear))
        self.own = self._stack.enter_context(scripted(own))
        upstreams = {
            "dear": {
                "base_url": self.dear.address,
                "api_key_env": "DEAR_KEY",
                "price": {"prompt_per_million": 5, "completion_per_million": 15},
                "max_retries": 1,
                **settings,
            },
            "own": {"base_url": self.own.address, "kind": "vllm", "max_retries": 1},
        }
        return make_service(self._folder, upstreams=upstreams, default_upstream="own")


@pytest.fixture
def hall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hall]:
    monkeypatch.setenv("DEAR_KEY", "sk-dear")
    with ExitStack() as stack:
        yield Hall(tmp_path, stack)


def hold(service: Service, count: int = 40, suite: int = 0, **task: Any) -> Evidence:
    made = rows(count + suite)
    arms = (CHAMPION, CANDIDATE)
    return sit(service, make_task(**task), arms, made[:count], made[count:], lambda *_: None)


def test_each_is_asked_every_row_at_its_own_upstream_and_the_gain_is_measured(hall: Hall) -> None:
    service = hall.open(knows(5), knows(9))
    found = hold(service, suite=10)
    assert (found.champion, found.candidate) == ("base", "3")
    assert sum(row.champion or 0 for row in found.rows) == 20
    assert sum(row.candidate or 0 for row in found.rows) == 36
    assert {row.source for row in found.rows} == {"expert"}
    assert found.regression is not None
    assert (found.regression.champion, found.regression.candidate) == (0.5, 0.9)
    assert found.champion_cost == pytest.approx((100 * 5 + 10 * 15) / 1e6)
    assert found.candidate_cost is None
    assert (found.length_ratio, found.latency_ratio is not None) == (1.0, True)
    for server, model, limit in (
        (hall.dear, "gpt-x", "max_completion_tokens"),
        (hall.own, "support-0123456789ab", "max_tokens"),
    ):
        assert len(server.bodies) == 50
        assert {body["model"] for body in server.bodies} == {model}
        assert {body[limit] for body in server.bodies} == {64}
        assert server.most <= 4
    assert set(hall.dear.keys) == {"Bearer sk-dear"}
    assert set(hall.own.keys) == {None}
    rules = make_task(gate={"max_latency_ratio": 100}).gate
    assert decide(found, rules).phase is Phase.PASSED


@pytest.mark.parametrize("status", [401, 404, 429, 503])
def test_a_champion_that_does_not_answer_is_an_error_and_no_failed_candidate(
    hall: Hall, status: int
) -> None:
    service = hall.open(lambda body: (status, {"error": {"message": "not today"}}), knows(9))
    with pytest.raises(ServingAway, match=rf"gpt-x at http.*: {status}: not today"):
        hold(service)


def test_an_upstream_that_is_not_there_is_named(hall: Hall) -> None:
    service = hall.open(knows(5), knows(9), base_url="http://127.0.0.1:9/v1")
    with pytest.raises(ServingAway, match=r"gpt-x at http://127.0.0.1:9/v1 does not answer"):
        hold(service, 3)


def test_an_upstream_that_hangs_is_an_error_after_its_timeout(hall: Hall) -> None:
    def hang(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        time.sleep(0.5)
        return 200, chat("late")

    service = hall.open(hang, knows(9), first_byte_timeout_seconds=0.1, max_retries=0)
    with pytest.raises(ServingAway, match="does not answer: ReadTimeout"):
        hold(service, 2)


def test_one_failure_is_asked_again(hall: Hall) -> None:
    failed: set[int] = set()

    def flaky(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        i = number(body)
        if i in failed or i > 1:
            return knows(5)(body)
        failed.add(i)
        return 500, {"error": {"message": "again"}}

    found = hold(hall.open(flaky, knows(5)), 10)
    assert [row.champion for row in found.rows] == [1.0] * 5 + [0.0] * 5


@pytest.mark.parametrize(
    "answer",
    [
        (200, chat("answer 0", finish_reason="length")),
        (200, chat("answer 0", finish_reason="content_filter")),
        (200, {"choices": [{"message": {"refusal": "answer 0"}, "finish_reason": "stop"}]}),
        (400, {"error": {"message": "the prompt is too long"}}),
    ],
)
def test_an_answer_that_is_cut_filtered_or_refused_counts_as_wrong(
    hall: Hall, answer: tuple[int, dict[str, Any]]
) -> None:
    service = hall.open(knows(10), lambda body: answer if number(body) == 0 else knows(10)(body))
    found = hold(service, 5)
    assert [row.candidate for row in found.rows] == [0.0, 1.0, 1.0, 1.0, 1.0]
    assert [row.champion for row in found.rows] == [1.0] * 5


@pytest.mark.parametrize("body", [{"choices": []}, {"error": {"message": "overloaded"}}, {}])
def test_an_answer_that_is_none_is_an_error(hall: Hall, body: dict[str, Any]) -> None:
    service = hall.open(lambda _: (200, body), knows(5), max_retries=0)
    with pytest.raises(ServingAway, match="no answer"):
        hold(service, 2)


def test_tools_go_along_and_template_options_to_our_own_servers_only(hall: Hall) -> None:
    service = hall.open(knows(5), knows(5))
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    question = Question(
        [{"role": "user", "content": "question 1"}], tools, {"enable_thinking": False}
    )
    row = ExamRow(question, "answer 1")
    sit(service, make_task(), (CHAMPION, CANDIDATE), [row], [], lambda *_: None)
    assert hall.dear.bodies[0]["tools"] == hall.own.bodies[0]["tools"] == tools
    assert hall.own.bodies[0]["chat_template_kwargs"] == {"enable_thinking": False}
    assert "chat_template_kwargs" not in hall.dear.bodies[0]


def test_progress_is_told_row_by_row(hall: Hall) -> None:
    service = hall.open(knows(5), knows(5))
    told: list[tuple[int, int]] = []
    sit(service, make_task(), (CHAMPION, CANDIDATE), rows(3), [], lambda *at: told.append(at))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_feedback_cannot_grade_answers_that_nobody_has_seen() -> None:
    with pytest.raises(ConfigError, match=r"heldout.grader = 'thumbs': .*name one of: right"):
        heldout_grader(make_task(heldout={}))


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[DuckLake]:
    opened = open_lake(make_service(tmp_path))
    yield opened
    opened.close()


def test_gate_rows_are_those_that_nobody_has_seen(lake: DuckLake) -> None:
    def row(snapshot: str, split: str, word: str) -> dict[str, Any]:
        return {
            "snapshot_id": snapshot,
            "split": split,
            "messages": [{"role": "user", "content": word}],
            "target": word.upper(),
            "author": "end_user",
            "unit": "u",
            "row_hash": word,
        }

    written = [
        *(row("new", split, split) for split in ("train", "select", "gate", "dropped")),
        *(row("old", split, split) for split in ("train", "heldout")),
        row("none", "train", "train"),
    ]
    lake.commit(lambda transaction: transaction.append("snapshot_rows", written))
    task = make_task()
    for snapshot, expected in (("new", ["GATE"]), ("old", ["HELDOUT"]), ("none", [])):
        assert [each.reference for each in read_rows(lake, snapshot, task)] == expected
    with pytest.raises(NotFound, match="names no snapshot"):
        read_rows(lake, None, task)


def test_a_regression_suite_is_read_line_by_line(tmp_path: Path) -> None:
    suite = tmp_path / "suite.jsonl"
    good = '{"messages": [{"role": "user", "content": "hello"}], "reference": "hi"}'
    suite.write_text(f"{good}\n\n")
    task = make_task(gate={"regression_suite": "suite.jsonl"}, folder=tmp_path)
    [row] = read_suite(task)
    assert (row.item["prompt"], row.reference, row.author) == ("hello", "hi", "expert")
    suite.write_text(f"{good}\n[1]\n")
    with pytest.raises(InputError, match=r"suite.jsonl:2: not {messages, reference}"):
        read_suite(task)
    suite.unlink()
    with pytest.raises(InputError, match="No such file"):
        read_suite(task)

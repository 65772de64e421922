"""Conversations are data: tools, calls and thinking reach the row that is trained on."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from everlearn.lake.ducklake import DuckLake, open_lake
from everlearn.task import Task, load_task
from tests.trainer.production import START, completion, correction, make_production, thumbs
from tests.trainer.templates import ANSWER, CALL, TOOLS, USER
from tests.trainer.tiny import THINGS
from trainer.reward import needs_reference
from trainer.rows import Row, message_of
from trainer.snapshot import freeze, load

CALLING = {"role": "assistant", "content": "I look.", "tool_calls": [CALL]}
SHOWN = "I look.\n" + json.dumps([CALL])


@pytest.fixture
def lake(tmp_path: Path) -> DuckLake:
    return open_lake(make_production(tmp_path, Path("base"), "http://127.0.0.1:1"))


@pytest.fixture
def task(tmp_path: Path, lake: DuckLake) -> Task:
    from everlearn.config import load as load_config

    return load_task(load_config(tmp_path / "everlearn.yaml"), "colours")


def put(lake: DuckLake, **tables: list[dict[str, Any]]) -> None:
    def write(transaction: Any) -> None:
        for name, rows in tables.items():
            transaction.append(name, rows)

    lake.commit(write)


def frozen(lake: DuckLake, task: Task) -> dict[str, Row]:
    made = freeze(lake, task, champion="base", salt="")
    again = load(lake, made.snapshot_id, task.task)
    assert [row.row_hash for row in again.rows if row.split != "dropped"] == [
        row.row_hash for row in made.rows if row.split != "dropped"
    ]
    return {row.completion_id: row for row in again.rows}


def asked(number: int, **overrides: Any) -> dict[str, Any]:
    """A completion of the training side, its question its own."""
    question = [{"role": "user", "content": f"question {number}"}]
    fields = {"unit": "user-thing0", "messages": question, **overrides}
    return completion(number, THINGS[0], "colour", **fields)


def test_a_row_keeps_tools_calls_switches_and_production_tokens(lake: DuckLake, task: Task) -> None:
    put(
        lake,
        completions=[
            asked(
                1,
                messages=[USER],
                tools=TOOLS,
                answer={**CALLING, "reasoning": "hm"},
                response_text=SHOWN,
                sampling={"temperature": 0, "chat_template_kwargs": {"enable_thinking": False}},
                prompt_token_ids=[1, 2],
                completion_token_ids=[3],
                template_hash="t",
            )
        ],
        feedback=[thumbs(1, True)],
    )
    row = frozen(lake, task)["cmpl_00001"]
    assert row.conversation.tools == TOOLS
    assert row.conversation.options == {"enable_thinking": False}
    assert row.conversation.asked_at == START + timedelta(seconds=1)
    assert row.taught == {**CALLING, "reasoning": "hm"}
    assert "get_weather" in row.answer
    captured = row.captured("t")
    assert captured is not None
    assert (captured.prompt, captured.completion, captured.same_template) == ([1, 2], [3], True)


def test_what_a_request_forced_is_never_taught_nor_replayed(lake: DuckLake, task: Task) -> None:
    completions = [asked(number, forced="logit_bias") for number in (1, 2, 3)]
    put(lake, completions=completions, feedback=[thumbs(1, True), correction(2, "blue")])
    rows = frozen(lake, task)
    assert {name: row.dropped_reason for name, row in rows.items()} == {
        "cmpl_00001": "forced",
        "cmpl_00002": "forced",
    }


def test_an_answer_that_is_not_ok_is_no_example(lake: DuckLake, task: Task) -> None:
    states = ("incomplete", "filtered", "refused", "upstream_error", "shadow", "passed")
    put(
        lake,
        completions=[asked(number, status=each) for number, each in enumerate(states)],
        feedback=[thumbs(number, True) for number in range(len(states))],
    )
    assert frozen(lake, task) == {}


@pytest.mark.parametrize("messages", ["hello", [1, 2], {"role": "user"}, None])
def test_messages_of_another_shape_cost_their_row(
    lake: DuckLake, task: Task, messages: Any
) -> None:
    put(
        lake,
        completions=[asked(1, messages=messages), asked(2)],
        feedback=[thumbs(1, True), thumbs(2, True)],
    )
    rows = frozen(lake, task)
    assert rows["cmpl_00001"].dropped_reason == "messages_unreadable"
    assert rows["cmpl_00002"].dropped_reason is None


def test_an_experts_call_is_a_call() -> None:
    right = "I look it up.\n" + json.dumps([CALL])
    assert message_of(right, CALLING) == {
        "role": "assistant",
        "content": "I look it up.",
        "tool_calls": [CALL],
    }
    assert message_of("no call at all", CALLING) is None
    assert message_of(right, ANSWER) is None
    assert message_of("[]", CALLING) is None


def elsewhere(task: Task, **train: Any) -> Task:
    """The task as it begins with somebody else's model."""
    fields = task.model_dump()
    champion = {"upstream": "house", "model": "big"}
    return Task(**{**fields, "champion": champion, "train": {**fields["train"], **train}})


def from_there(number: int, **overrides: Any) -> dict[str, Any]:
    return asked(number, upstream="house", model_served="big", **overrides)


def test_answers_of_a_champion_elsewhere_are_targets_not_replay(lake: DuckLake, task: Task) -> None:
    score = {"task": "colours", "evaluator": "matches", "evaluator_version": "1", "created_at": 1.0}
    put(
        lake,
        completions=[from_there(number) for number in range(1, 5)] + [asked(5)],
        feedback=[thumbs(1, True)],
        scores=[
            {**score, "completion_id": "cmpl_00002", "value": 1.0},
            {**score, "completion_id": "cmpl_00003", "value": 0.0},
        ],
    )
    plain = frozen(lake, elsewhere(task))
    assert {name: row.kind for name, row in plain.items()} == {
        "cmpl_00001": "accepted",
        "cmpl_00005": "replay",
    }
    distilled = frozen(lake, elsewhere(task, distil=True))
    assert distilled["cmpl_00002"].kind == "accepted"
    assert (distilled["cmpl_00002"].author, distilled["cmpl_00002"].target) == ("grader", "red")
    assert "cmpl_00003" not in distilled
    assert "cmpl_00004" not in distilled


def test_a_grader_needs_a_right_answer_where_its_text_or_its_parts_name_one(task: Task) -> None:
    schema = {"type": "json_schema", "name": "valid", "json_schema": {}}
    formula = {"type": "multi", "name": "reward", "calculate_output": "0.5 * valid"}
    fields = {**task.model_dump(), "graders": [*task.graders, schema], "reward": formula}
    made = Task(**fields)
    assert [needs_reference(made, grader) for grader in made.graders] == [True, False]
    assert not needs_reference(made, made.grader("reward"))
    both = Task(**{**fields, "reward": {**formula, "calculate_output": "valid * matches"}})
    assert needs_reference(both, both.grader("reward"))

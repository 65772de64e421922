"""What graders see of an answer in the lake; what nobody knows is unscored, never zero."""

import json
from pathlib import Path
from typing import Any

import pytest

from evaluators.pending import pending
from evaluators.references import references
from evaluators.run import evaluate
from evaluators.template import Template, Unknown
from evaluators.types import Sample, sample_of
from everlearn.task import Task
from tests.evaluators.lake import Rows

CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}


def answer(**fields: Any) -> str:
    return json.dumps({"role": "assistant", "content": None, **fields})


def rendered(text: str, sample: Sample) -> str:
    return Template(text, "grader g").render(sample, {})


def test_calls_and_choices_come_from_the_message() -> None:
    sample = sample_of(answer(tool_calls=[CALL]), "[...]", "tool_calls")
    assert rendered("{{ sample.output_tools[0].function.name }}", sample) == "weather"
    assert rendered("{{ sample.choices[0].finish_reason }}", sample) == "tool_calls"
    several = [{"index": n, "message": {}, "finish_reason": "stop"} for n in range(2)]
    assert len(sample_of(answer(choices=several), "a", "stop").choices or ()) == 2


def test_an_answer_without_calls_is_known_to_have_none() -> None:
    assert (
        rendered("{{ sample.output_tools }}", sample_of(answer(content="a"), "a", "stop")) == "[]"
    )


def test_calls_of_an_answer_kept_as_text_alone_are_not_known() -> None:
    with pytest.raises(Unknown):
        rendered("{{ sample.output_tools }}", sample_of(None, "a", "stop"))


def test_json_beside_a_call_is_read() -> None:
    sample = sample_of(answer(content='{"a": 1}', tool_calls=[CALL]), '{"a": 1}\n[...]', "stop")
    assert rendered("{{ sample.output_json.a }}", sample) == "1"


TASK = {
    "task": "text2sql", "base_model": "models/none", "upstream": "local",
    "graders": [
        {"type": "string_check", "name": "matches", "input": "{{ sample.output_text }}",
         "reference": "{{ item.reference }}", "operation": "eq"},
        {"type": "string_check", "name": "called", "input": "{{ sample.output_tools }}",
         "reference": "weather", "operation": "like"},
        {"type": "feedback", "name": "thumbs", "feedback": "thumbs"},
    ],
    "heldout": {"grader": "matches"}, "release": {"primary": "matches"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("messages", "metadata"),
    [
        ('"hello"', "{}"), ('["hello", null]', '"abc"'), ('[{"role": 1, "content": {"a": 1}}]', ""),
        ("not JSON", "{}"), ("[" * 5000, "{}"), ("[]", "not JSON"), ("5", "null"),
    ],
)  # fmt: skip
def test_one_odd_row_leaves_the_others_scored(tmp_path: Path, messages: str, metadata: str) -> None:
    rows, task = Rows(tmp_path), Task.model_validate(TASK)
    odd = rows.answered("x", "a", messages=messages, metadata=metadata)
    good = rows.answered("y", "b", answer=answer(content="b", tool_calls=[CALL]))
    rows.corrected(odd, "c")
    rows.said(good)
    report = evaluate(rows.service, task, rows.lake)
    scores = rows.scores()
    assert (scores[good, "thumbs"], scores[good, "called"]) == (1.0, 1.0)
    assert scores[odd, "called"] is None
    assert report.completions == 2
    assert evaluate(rows.service, task, rows.lake).completions == 0


def test_an_answer_that_is_not_ok_is_neither_graded_nor_a_reference(tmp_path: Path) -> None:
    rows = Rows(tmp_path)
    for status in ("incomplete", "filtered", "refused", "upstream_error"):
        bad = rows.answered("x", "a", status=status)
        rows.said(bad, author="expert")
    rows.answered("x", "a", status="shadow", error="incomplete")
    fine = rows.answered("x", "a", status="shadow")
    due = pending(rows.lake, "text2sql", [], {}, since=None, limit=9)
    assert (due, references(rows.lake, "text2sql")) == ([], {})
    report = evaluate(rows.service, Task.model_validate(TASK), rows.lake)
    assert report.completions == 1
    assert {completion for completion, _ in rows.scores()} == {fine}


def test_an_experts_answer_about_one_picture_is_no_reference_for_another(tmp_path: Path) -> None:
    rows = Rows(tmp_path)

    def about(name: str) -> str:
        shown = {"type": "image_url", "image_url": {"url": f"https://pics.example/{name}"}}
        return json.dumps([{"role": "user", "content": [{"type": "text", "text": "?"}, shown]}])

    cat = rows.answered("", "a cat", messages=about("cat"))
    dog = rows.answered("", "a dog", messages=about("dog"))
    rows.corrected(cat, "a cat")
    evaluate(rows.service, Task.model_validate(TASK), rows.lake)
    scores = rows.scores()
    assert (scores[cat, "matches"], scores[dog, "matches"]) == (1.0, None)


def test_other_tools_are_another_prompt(tmp_path: Path) -> None:
    rows = Rows(tmp_path)
    told = rows.answered("x", "a", tools='[{"type": "function", "function": {"name": "f"}}]')
    other = rows.answered("x", "a", tools='[{"type": "function", "function": {"name": "g"}}]')
    rows.corrected(told, "a")
    evaluate(rows.service, Task.model_validate(TASK), rows.lake)
    assert (rows.scores()[told, "matches"], rows.scores()[other, "matches"]) == (1.0, None)

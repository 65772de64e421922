"""string_check, json_schema, feedback, multi, and what does not compile."""

from pathlib import Path
from typing import Any

import pytest

from evaluators.graders import build_all, check
from everlearn.errors import ConfigError
from tests.evaluators.graders import make_grader, make_task, verdict

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("operation", "answer", "value"),
    [
        ("eq", "Paris", 1.0), ("eq", "paris", 0.0), ("ne", "Rome", 1.0), ("ne", "Paris", 0.0),
        ("like", "It is Paris.", 1.0), ("like", "It is paris.", 0.0), ("ilike", "PARIS!", 1.0),
        ("ilike", "Rome", 0.0),
    ],
)  # fmt: skip
async def test_string_check_compares(operation: str, answer: str, value: float) -> None:
    grader = make_grader(
        type="string_check", operation=operation,
        input="{{ sample.output_text }}", reference="{{ item.reference }}",
    )  # fmt: skip
    assert (await verdict(grader, answer, reference="Paris")).value == value
    assert (await verdict(grader, answer)).value is None


SCHEMA = {
    "type": "object",
    "properties": {"sql": {"type": "string", "pattern": "^SELECT"}},
    "required": ["sql"],
}


@pytest.mark.parametrize(
    ("answer", "value", "reason"),
    [
        ('{"sql": "SELECT 1"}', 1.0, ""),
        ('{"sql": "DROP"}', 0.0, "$.sql: 'DROP' does not match"),
        ("{}", 0.0, "'sql' is a required property"),
        ("SELECT 1", 0.0, "not JSON"),
        ("[" * 100_000, 0.0, "not JSON"),
    ],
)
async def test_json_schema_accepts_or_says_what_is_wrong(
    answer: str, value: float, reason: str
) -> None:
    found = await verdict(make_grader(type="json_schema", json_schema=SCHEMA), answer)
    assert found.value == value
    assert reason in (found.reason or "")


@pytest.mark.parametrize("answer", ["NaN", "-Infinity", '{"share": Infinity}', '{"share": NaN}'])
async def test_what_python_alone_calls_json_is_none(answer: str) -> None:
    schema = {"properties": {"share": {"type": "number"}}}
    found = await verdict(make_grader(type="json_schema", json_schema=schema), answer)
    assert (found.value, "not JSON" in (found.reason or "")) == (0.0, True)


async def test_a_schema_written_as_for_response_format_is_the_schema_in_it() -> None:
    wrapped = {"name": "query", "strict": True, "schema": SCHEMA}
    grader = make_grader(type="json_schema", json_schema=wrapped)
    assert (await verdict(grader, '{"sql": "SELECT 1"}')).value == 1.0
    assert (await verdict(grader, '{"anything": 1}')).value == 0.0


@pytest.mark.parametrize(
    ("number", "step", "value"),
    [
        ("4.35", 0.01, 1.0), ("0.3", 0.1, 1.0), ("1e308", 0.5, 1.0), ("19.99", 0.01, 1.0),
        ("4.355", 0.01, 0.0), ("7", 2, 0.0), ("-6", 2, 1.0), ("0", 0.7, 1.0), ("true", 2, 1.0),
        ('"a"', 2, 1.0), ("9007199254740993", 2, 0.0),
    ],
)  # fmt: skip
async def test_multiples_are_decimal(number: str, step: float, value: float) -> None:
    grader = make_grader(type="json_schema", json_schema={"multipleOf": step})
    assert (await verdict(grader, number)).value == value


def said(kind: str = "binary", **fields: Any) -> dict[str, Any]:
    return {
        "kind": kind, "name": "thumbs", "value_bool": None, "value_number": None,
        "value_text": None, "author": "end_user", "author_id": None, "weight": 1.0, **fields,
    }  # fmt: skip


UP, DOWN = said(value_bool=True), said(value_bool=False)


@pytest.mark.parametrize(
    ("feedback", "value"),
    [
        ([UP], 1.0),
        ([DOWN], 0.0),
        ([UP, DOWN], 0.5),
        ([said(value_bool=True, author_id="ann"), said(value_bool=False, author_id="ann")], 0.0),
        ([said(value_bool=True, weight=3.0), DOWN], 0.75),
        ([said("scalar", value_number=0.4)], 0.4),
        ([UP, said(value_bool=False, author="expert")], 0.0),
        ([said(value_bool=False, author="expert"), UP], 0.0),
        ([UP, said("correction", value_text="better", author="expert")], 0.0),
        ([DOWN, said("correction", value_text=" SELECT 1 ", author="expert")], 1.0),
        ([said("correction", value_text="better", author="end_user")], None),
        ([said(value_bool=True, name="other")], None),
        ([said("comment", value_text="thanks")], None),
        ([said(value_bool=True, weight=0.0)], None),
        ([said("scalar", value_number=5.0)], None),
        ([said("scalar", value_number=float("nan"))], None),
        ([], None),
    ],
)
async def test_feedback_counts_as_people_meant_it(
    feedback: list[dict[str, Any]], value: float | None
) -> None:
    found = await verdict(make_grader(type="feedback"), "SELECT 1", feedback=feedback)
    assert found.value == value
    assert found.reason
    assert found.error is None


CHECK = {"type": "string_check", "input": "{{ sample.output_text }}", "operation": "eq"}


async def test_a_formula_reads_the_graders_of_the_task(tmp_path: Path) -> None:
    task = make_task(
        tmp_path,
        {"name": "one", **CHECK, "reference": "1"},
        {"name": "same", **CHECK, "reference": "{{ item.reference }}"},
        reward={"type": "multi", "calculate_output": "0.25*one + 0.75*same"},
    )
    reward = build_all(task)[-1]
    found = await verdict(reward, "1", reference="2")
    assert (found.value, found.sub_scores) == (0.25, {"one": 1.0, "same": 0.0})
    missing = await verdict(reward, "1")
    assert missing.value is None
    assert missing.reason == "same: item.reference is not known"
    assert missing.sub_scores == {"one": 1.0, "same": None}


async def test_a_formula_without_a_value_is_unscored(tmp_path: Path) -> None:
    grader = make_grader(
        type="multi",
        calculate_output="1 / a",
        graders={"a": {"name": "a", **CHECK, "reference": "1"}},
    )
    assert (await verdict(grader, "1")).value == 1.0
    assert (await verdict(grader, "2")).error == "1 / a: division by zero"


BROKEN = [
    ({"type": "python", "source": "def grade(:"}, "source does not compile"),
    ({"type": "multi", "calculate_output": "a +"}, "is not a formula"),
    (
        {"type": "multi", "calculate_output": "nobody"},
        "no grader 'nobody'; there are: broken, good",
    ),
    ({"type": "multi", "calculate_output": "broken"}, "reads itself"),
    ({"type": "multi", "calculate_output": "1"}, "reads no grader"),
    ({"type": "json_schema", "json_schema": {"type": "thing"}}, "json_schema"),
    ({"type": "json_schema", "json_schema": {"pattern": "("}}, "json_schema"),
    ({"type": "execution", "language": "sql", "database": "none.duckdb"}, "No such file"),
    ({**CHECK, "reference": "{{ items.x }}"}, "is not item.NAME or sample.NAME"),
]


@pytest.mark.parametrize(("spec", "reason"), BROKEN)
async def test_a_task_with_a_grader_that_does_not_compile_is_refused(
    tmp_path: Path, spec: dict[str, Any], reason: str
) -> None:
    good = {"name": "good", **CHECK, "reference": "1"}
    with pytest.raises(ConfigError) as caught:
        check(make_task(tmp_path, {"name": "broken", **spec}, good))
    assert reason in str(caught.value)
    assert "task text2sql: grader broken" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


async def test_another_definition_is_another_version(tmp_path: Path) -> None:
    def versions(reference: str) -> list[str]:
        spec = {"name": "a", **CHECK, "reference": reference}
        reward = {"type": "multi", "calculate_output": "a"}
        return [each.version for each in build_all(make_task(tmp_path, spec, reward=reward))]

    assert versions("1") == versions("1")
    assert not set(versions("1")) & set(versions("2"))

"""Which graders wait for people, and which one stands beside them by itself."""

from typing import Any

import pytest
from pydantic import ValidationError

from everlearn.coverage import first_on_every_answer, needs_people
from everlearn.task import Task

THUMBS = {"name": "thumbs", "type": "feedback"}
MATCHES = {
    "name": "matches", "type": "string_check", "operation": "eq",
    "input": "{{sample.output_text}}", "reference": "{{ item.reference }}",
}  # fmt: skip
SHORT = {**MATCHES, "name": "short", "reference": "yes"}
RUNS = {"name": "runs", "type": "execution", "language": "sql", "database": "x.duckdb"}
JUDGE = {"name": "judge", "type": "score_model", "model": "m", "input": []}
CODE = {"name": "code", "type": "python", "source": "def grade(sample, item): return 1.0"}
TOLD = {**CODE, "name": "told", "source": "def grade(s, item): return s == item['reference']"}
BOTH = {"name": "both", "type": "multi", "calculate_output": "0.5*short + 0.5*matches"}
OWN = {"name": "own", "type": "multi", "calculate_output": "short", "graders": {"short": SHORT}}


def make_task(*graders: dict[str, Any], **release: Any) -> Task:
    return Task(
        **{"task": "t", "base_model": "b", "upstream": "u", "graders": graders},
        release={"primary": graders[0]["name"], "guardrails": ["error_rate"], **release},
    )


@pytest.mark.parametrize(
    ("grader", "asked"),
    [
        (THUMBS, True),
        (MATCHES, True),
        (SHORT, False),
        (RUNS, False),
        ({**RUNS, "reference": "{{item.reference}}"}, True),
        ({**SHORT, "input": "{{item.thumbs}}"}, True),
        (JUDGE, False),
        (CODE, False),
        (TOLD, True),
        (BOTH, True),
        (OWN, False),
    ],
)
def test_a_grader_waits_for_people_where_it_reads_what_they_said(
    grader: dict[str, Any], asked: bool
) -> None:
    task = make_task(grader, *(each for each in (MATCHES, SHORT) if each["name"] != grader["name"]))
    assert needs_people(task.graders[0], task.graders) is asked


@pytest.mark.parametrize(
    ("graders", "chosen"),
    [
        ((THUMBS, MATCHES), None),
        ((THUMBS, JUDGE), None),
        ((THUMBS, MATCHES, JUDGE, SHORT, RUNS), "short"),
        ((THUMBS, BOTH, MATCHES, OWN, SHORT), "own"),
    ],
)
def test_the_first_that_is_nobodys_opinion_stands_beside_the_raters(
    graders: tuple[dict[str, Any], ...], chosen: str | None
) -> None:
    task = make_task(*graders)
    assert first_on_every_answer(task.graders) == task.release_rules.co_primary == chosen
    assert task.believes_raters is (chosen is None)
    assert task.release_rules.metrics == ("error_rate", *([chosen] if chosen else []))


def test_a_primary_that_asks_nobody_needs_nothing_beside_it() -> None:
    task = make_task(SHORT, THUMBS)
    assert (task.release_rules.co_primary, task.believes_raters) == (None, False)
    assert task.release_rules.allowance == 0.0


def test_a_judge_may_be_named_and_none_may_be_wanted() -> None:
    assert make_task(THUMBS, JUDGE, co_primary="judge").release_rules.co_primary == "judge"
    none = make_task(THUMBS, SHORT, co_primary=None)
    assert none.believes_raters
    assert none.release_rules.allowance == 0.0


@pytest.mark.parametrize("name", ["thumbs", "matches", "nothing"])
def test_what_people_have_to_say_stands_beside_nobody(name: str) -> None:
    with pytest.raises(ValidationError, match=f"release.co_primary '{name}' is no other grader"):
        make_task(THUMBS, MATCHES, SHORT, co_primary=name)

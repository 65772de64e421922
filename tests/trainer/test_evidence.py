import json
from pathlib import Path

import msgspec
import pytest

from everlearn.errors import InputError, NotEnoughEvidence
from everlearn.task import Task
from registry.gate import Evidence
from tests.trainer.examples import accepted, corrected
from trainer.evidence import Exam, evidence, mean, regression_suite
from trainer.run import check_scored, describe, standing

GRADER = {
    "type": "string_check",
    "name": "equal",
    "input": "{{sample.output_text}}",
    "reference": "{{item.reference}}",
    "operation": "eq",
}


def make_task(folder: Path, suite: str | None = None, min_rows: int = 2) -> Task:
    return Task(
        task="t",
        base_model="m",
        upstream="local",
        graders=(GRADER,),
        release={"primary": "equal"},
        gate={"regression_suite": suite, "min_rows": min_rows},
        folder=folder,
    )


def test_the_evidence_is_what_the_gate_reads(tmp_path: Path) -> None:
    rows = [corrected(prompt="a"), accepted(prompt="b")]
    exams = (Exam((0.0, 1.0), (0.5,), 10.0), Exam((1.0, None), (1.0,), 12.0))
    document = evidence(
        make_task(tmp_path), ("base", "t-1"), rows, exams, grader="equal", latency=1.1
    )
    parsed = msgspec.convert(document, Evidence)
    assert [(row.source, row.champion, row.candidate) for row in parsed.rows] == [
        ("expert", 0.0, 1.0),
        ("user", 1.0, None),
    ]
    assert parsed.regression is not None
    assert (parsed.regression.champion, parsed.regression.candidate) == (0.5, 1.0)
    assert parsed.length_ratio == pytest.approx(1.2)


def test_without_a_suite_there_is_no_regression(tmp_path: Path) -> None:
    exams = (Exam((0.0,), (), 0.0), Exam((1.0,), (), 3.0))
    document = evidence(
        make_task(tmp_path), ("base", "t-1"), [corrected()], exams, grader="equal", latency=None
    )
    assert document["regression"] is None
    assert document["length_ratio"] is None


def test_the_suite_is_read_line_by_line(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "q"}], "reference": "a"}
    (tmp_path / "suite.jsonl").write_text(json.dumps(row) + "\n\n")
    (found,) = regression_suite(make_task(tmp_path, "suite.jsonl"))
    assert (found.target, found.messages) == ("a", row["messages"])
    assert regression_suite(make_task(tmp_path)) == []


@pytest.mark.parametrize("line", ["{", "[]", '{"messages": []}'])
def test_a_bad_line_of_the_suite_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "suite.jsonl").write_text(line)
    with pytest.raises(InputError, match=r"suite\.jsonl:1: not \{messages, reference\}"):
        regression_suite(make_task(tmp_path, "suite.jsonl"))


def test_a_suite_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gate\.regression_suite .*nothing\.jsonl"):
        regression_suite(make_task(tmp_path, "nothing.jsonl"))


def test_a_grader_that_is_silent_ends_the_run(tmp_path: Path) -> None:
    task = make_task(tmp_path)
    check_scored(Exam((0.0, 1.0, None), (), 1.0), task)
    with pytest.raises(NotEnoughEvidence, match="scored 1 of 3 held-out answers"):
        check_scored(Exam((0.0, None, None), (), 1.0), task)


def test_a_standing_shows_all_rows_and_those_of_experts() -> None:
    rows = [corrected(), accepted(), accepted()]
    exam = Exam((1.0, 0.0, None), (), 1.0)
    line = standing("sft", rows, exam, 1.26)
    assert (line["heldout"], line["heldout_expert"], line["expert_rows"]) == (0.5, 1.0, 1)
    assert line["seconds"] == 1.3
    assert describe(rows, exam) == ("held-out 50.0% of 3 rows, expert-reviewed 100.0% of 1")


def test_unscored_rows_count_for_nobody() -> None:
    assert mean([None, None]) is None
    assert mean([None, 1.0, 0.0]) == 0.5

import pytest

from everlearn.errors import NotEnoughEvidence
from everlearn.task import Task
from tests.trainer.examples import accepted, corrected
from trainer.evidence import Exam, mean
from trainer.outcome import check_scored, describe, standing

GRADER = {
    "type": "string_check",
    "name": "equal",
    "input": "{{sample.output_text}}",
    "reference": "{{item.reference}}",
    "operation": "eq",
}


def test_a_grader_that_is_silent_ends_the_run() -> None:
    task = Task(
        task="t",
        base_model="m",
        upstream="local",
        graders=(GRADER,),
        release={"primary": "equal"},
    )
    check_scored(Exam((0.0, None, None)), task)
    check_scored(Exam(()), task)
    with pytest.raises(NotEnoughEvidence, match="grader equal scored none of 2 select answers"):
        check_scored(Exam((None, None)), task)


def test_a_standing_shows_all_rows_and_those_of_experts() -> None:
    rows = [corrected(), accepted(), accepted()]
    exam = Exam((1.0, 0.0, None))
    line = standing("sft", rows, exam, 1.26)
    assert (line["heldout"], line["heldout_expert"], line["expert_rows"]) == (0.5, 1.0, 1)
    assert line["seconds"] == 1.3
    assert describe(rows, exam) == ("held-out 50.0% of 3 rows, expert-reviewed 100.0% of 1")


def test_unscored_rows_count_for_nobody() -> None:
    assert mean([None, None]) is None
    assert mean([None, 1.0, 0.0]) == 0.5

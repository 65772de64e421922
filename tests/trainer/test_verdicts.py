"""What graders and proven judges say of answers that nobody judged becomes rows of low weight."""

from pathlib import Path
from typing import Any

import pytest

from everlearn.config import load
from everlearn.lake.ducklake import DuckLake, open_lake
from everlearn.rules import Judges
from everlearn.task import Task, load_task
from tests.trainer.examples import accepted, make_row, rejected
from tests.trainer.production import START, completion, make_production, thumbs
from tests.trainer.tiny import THINGS
from trainer.admit import admit
from trainer.methods import TrainingData
from trainer.methods.dpo import pairs
from trainer.snapshot import read_rows, select
from trainer.verdicts import AUTHOR, by_verdicts, heard, seconded

RUNS = {
    **{"type": "string_check", "name": "runs", "operation": "eq"},
    **{"input": "{{sample.output_text}}", "reference": "x"},
}
JUDGE = {
    **{"type": "score_model", "name": "judge", "model": "m", "range": [0, 10]},
    "input": [{"role": "user", "content": "{{sample.output_text}}"}],
}


def task(*names: str, **train: Any) -> Task:
    return Task.model_validate(
        {
            **{"task": "colours", "base_model": "m", "upstream": "local"},
            "graders": [RUNS, JUDGE, {"name": "thumbs", "type": "feedback", "feedback": "thumbs"}],
            "heldout": {"grader": "runs"},
            "train": {"verdicts": names, **train},
            "trust": {"min_raters": 1, "max_share_per_rater": 1},
        }
    )


def row(value: float | None, answer: str, prompt: str = "one", name: str = "runs") -> Any:
    verdicts = {} if value is None else {name: value}
    return make_row(prompt=prompt, completion=answer, verdicts=verdicts)


def kinds(rows: Any) -> list[tuple[str, str | None, float]]:
    return [(each.kind, each.author, each.weight) for each in rows]


def test_what_fails_is_rejected_and_what_passes_beside_it_is_taught() -> None:
    found = by_verdicts([row(1.0, "good"), row(0.0, "bad")], task("runs"), ["runs"])
    assert kinds(found) == [("accepted", AUTHOR, 0.5), ("rejected", AUTHOR, 0.5)]
    assert [each.answer for each, _ in pairs(TrainingData(tuple(found)))] == ["good"]


def test_what_the_model_does_right_anyway_stays_replay_and_so_does_what_nobody_scored() -> None:
    rows = [row(1.0, "good"), row(None, "other"), row(1.0, "good", "two"), row(None, "x", "three")]
    assert by_verdicts(rows, task("runs"), ["runs"]) == rows


def test_all_that_are_named_must_pass_and_one_that_says_wrong_is_enough() -> None:
    both = ["runs", "judge"]
    wrong, half, fine = (
        make_row(prompt="one", completion=text, verdicts={"runs": 1.0, "judge": value})
        for text, value in (("a", 1.0), ("b", 5.0), ("c", 9.0))
    )
    found = by_verdicts([wrong, half, fine], task(*both), both)
    assert [each.kind for each in found] == ["rejected", "replay", "accepted"]


def test_a_persons_word_is_stronger_than_a_graders() -> None:
    told = accepted(prompt="one", completion="bad", weight=1.0)
    rows = [told, *by_verdicts([row(1.0, "good"), row(0.0, "bad")], task("runs"), ["runs"])]
    live = {each.answer: each.author for each in admit(rows, max_per_unit=9) if each.target}
    assert live["bad"] == "end_user"
    why = {each.dropped_reason for each in admit(rows, max_per_unit=9)}
    assert "outvoted" in why


def test_many_verdicts_on_one_answer_are_one_voice() -> None:
    rows = [row(0.0, "bad") for _ in range(50)]
    found = admit(by_verdicts(rows, task("runs"), ["runs"]), max_per_unit=99)
    assert [(each.kind, each.weight) for each in found if each.split == "train"] == [
        ("rejected", 0.5)
    ]


@pytest.mark.parametrize(("value", "confirmed"), [(1.0, "up"), (0.0, "down"), (None, None)])
def test_what_people_said_is_confirmed_by_a_grader_that_says_the_same(
    value: float | None, confirmed: str | None
) -> None:
    verdicts = {} if value is None else {"runs": value}
    rows = [accepted(unit="up", verdicts=verdicts), rejected(unit="down", verdicts=verdicts)]
    found = seconded(rows, task("runs"), ["runs"])
    assert [row.unit for row in found if row.confirmed] == [confirmed] * bool(confirmed)
    assert seconded(rows, task(), []) == rows


def test_no_exam_is_made_of_them() -> None:
    rows = by_verdicts([row(1.0, "good"), row(0.0, "bad")], task("runs"), ["runs"])
    for salt in map(str, range(30)):
        found = select(rows, task("runs"), salt)
        assert not [e for e in found if e.split in ("select", "gate") and e.target is not None]


def test_a_name_that_is_no_grader_is_refused() -> None:
    with pytest.raises(ValueError, match=r"train\.verdicts 'other' is not a grader"):
        task("other")


@pytest.fixture
def lake(tmp_path: Path) -> DuckLake:
    return open_lake(make_production(tmp_path, Path("base"), "http://127.0.0.1:1"))


def test_a_judge_is_heard_once_it_agrees_with_experts(lake: DuckLake) -> None:
    why = heard(lake, task("runs", "judge", "thumbs"))
    assert why["runs"] is None
    assert "taught already" in str(why["thumbs"])
    assert why["judge"] == "agrees with experts in at least 0.00 < 0.7 on 0 labels"
    trusting = task("judge").model_copy(update={"judges": Judges(trusted=("judge",))})
    assert heard(lake, trusting) == {"judge": None}
    rows = [completion(number, THINGS[number], "colour") for number in range(20)]
    labels = [thumbs(number, number % 2 == 0, author="expert") for number in range(20)]
    scores = [
        {
            **{"completion_id": f"cmpl_{number:05d}", "task": "colours", "evaluator": "judge"},
            **{"evaluator_version": "v", "value": 9.0 if number % 2 == 0 else 1.0},
            "created_at": START,
        }
        for number in range(20)
    ]

    def write(transaction: Any) -> None:
        transaction.append("completions", rows)
        transaction.append("feedback", labels)
        transaction.append("scores", scores)

    lake.commit(write)
    assert heard(lake, task("judge"))["judge"] is None


def test_scores_in_the_lake_reach_the_snapshot(lake: DuckLake, tmp_path: Path) -> None:
    declared = load_task(load(tmp_path / "everlearn.yaml"), "colours")
    train = declared.train.model_copy(update={"verdicts": ("matches",)})
    rows = [completion(number, THINGS[number], "colour") for number in range(3)]
    scores = [
        {
            **{"completion_id": "cmpl_00001", "task": "colours", "evaluator": "matches"},
            **{"evaluator_version": "v", "value": 0.0, "created_at": START},
        }
    ]

    def write(transaction: Any) -> None:
        transaction.append("completions", rows)
        transaction.append("scores", scores)

    lake.commit(write)
    asked = declared.model_copy(update={"train": train})
    found = {each.completion_id: each.kind for each in read_rows(lake, asked, "base")}
    assert found == {"cmpl_00000": "replay", "cmpl_00001": "rejected", "cmpl_00002": "replay"}
    assert {each.kind for each in read_rows(lake, declared, "base")} == {"replay"}

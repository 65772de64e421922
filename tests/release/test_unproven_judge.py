"""A judge that has not earned its vote: no gate, no release, no reward."""

import json
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from evaluators.experts import half
from evaluators.fill import label_salt
from evaluators.graders import build
from evaluators.judges import JudgeRefused
from everlearn.cli import group
from everlearn.errors import NotEnoughEvidence
from everlearn.installation import heldout_salt
from everlearn.lake.ducklake import DuckLake, open_lake
from everlearn.lake.store import Transaction
from everlearn.prompts import prompt_key
from everlearn.task import load_task
from registry.states import VersionState
from serving.release.verbs import Desk
from tests.evaluators.lake import START
from tests.registry.conftest import Shelf, make_shelf
from trainer.plan import Plan, plan

JUDGE = {
    "name": "judge", "type": "label_model", "model": "m", "labels": ["good", "bad"],
    "passing_labels": ["good"], "input": [{"role": "user", "content": "{{ sample.output_text }}"}],
}  # fmt: skip


class Court:
    """A task whose judge gates, is the primary metric and the reward; and a gated version."""

    def __init__(self, folder: Path, address: str) -> None:
        self.shelf: Shelf = make_shelf(folder, address)
        self.declare()
        self.version = self.shelf.put("a" * 64).version
        self.shelf.registry.transition(self.shelf.task, self.version, VersionState.GATED, "a test")
        self.lake: DuckLake = open_lake(self.shelf.service)

    def declare(self, **fields: Any) -> None:
        content = {
            "task": self.shelf.task, "base_model": "base", "upstream": "local", "graders": [JUDGE],
            "reward": {"type": "multi", "calculate_output": "2 * judge"},
            "heldout": {"grader": "judge"}, "release": {"primary": "judge"}, **fields,
        }  # fmt: skip
        (self.shelf.service.tasks_path / "task.yaml").write_text(yaml.safe_dump(content))
        self.task = load_task(self.shelf.service, self.shelf.task)

    def labelled(self, count: int, *, agree: bool) -> None:
        """Answers that expert and judge have judged, all on the half that certifies."""
        version = build(self.task.graders[0], self.task).version
        salt, task = label_salt(self.shelf.service), self.shelf.task
        rows: dict[str, list[dict[str, Any]]] = {"completions": [], "feedback": [], "scores": []}
        prompts = ([{"role": "user", "content": f"q{number}"}] for number in range(1000))
        certified = (each for each in prompts if half(salt, prompt_key(each)) == "certify")
        for number, prompt in zip(range(count), certified, strict=False):
            about = {"completion_id": f"cmpl_{number:06}", "task": task}
            good, at = number % 2 == 0, START + timedelta(seconds=number)
            rows["completions"].append({
                **about, "status": "ok", "version": "base", "unit": f"u{number}",
                "received_at": at, "response_text": f"a{number}", "messages": json.dumps(prompt),
            })  # fmt: skip
            rows["feedback"].append({
                "feedback_id": f"fb_{number:06}", "completion_id": about["completion_id"],
                "kind": "binary", "name": "thumbs", "value_bool": good, "author": "expert",
                "received_at": at,
            })  # fmt: skip
            rows["scores"].append({
                **about, "evaluator": "judge", "evaluator_version": version, "created_at": at,
                "value": float(good if agree else number % 4 < 2), "context": "||",
            })  # fmt: skip
        for table, content in rows.items():
            self.lake.commit(partial(_append, table=table, rows=content))

    def gate(self) -> BaseException | None:
        """What `everlearn gate` ends with."""
        config = str(self.shelf.service.root / "everlearn.yaml")
        arguments = ["gate", self.shelf.task, self.version, "--config", config]
        return CliRunner().invoke(group, arguments).exception

    def start(self) -> None:
        desk = Desk(self.shelf.service, self.task)
        try:
            desk.start(self.shelf.registry, self.version)
        finally:
            desk.close()

    def plan(self) -> Plan:
        salt = heldout_salt(self.shelf.service)
        return plan(self.lake, self.task, self.shelf.registry, salt=salt, method="rft")


def _append(transaction: Transaction, table: str, rows: list[dict[str, Any]]) -> None:
    transaction.append(table, rows)


@pytest.fixture
def court(tmp_path: Path, mlflow_address: str) -> Iterator[Court]:
    made = Court(tmp_path, mlflow_address)
    yield made
    made.lake.close()


def test_without_labels_a_judge_only_advises(court: Court) -> None:
    error = court.gate()
    assert isinstance(error, NotEnoughEvidence)
    assert "heldout.grader = 'judge': judge judge may only advise: no certified label" in str(error)
    with pytest.raises(NotEnoughEvidence, match="co_primary and guardrails: judge judge"):
        court.start()
    assert "reward: judge judge may only advise" in court.plan().left_out["rft"]
    with pytest.raises(NotEnoughEvidence, match="may only advise"):
        court.plan().check()


def test_a_judge_that_people_disagree_with_is_refused_three_times(court: Court) -> None:
    court.labelled(60, agree=False)
    error = court.gate()
    assert isinstance(error, JudgeRefused)
    assert error.exit_code == 1
    with pytest.raises(JudgeRefused, match=r"< min_agreement 0\.700 on 60 certified labels"):
        court.start()
    assert "< min_agreement 0.700" in court.plan().left_out["rft"]


def test_a_judge_that_agrees_decides(court: Court) -> None:
    court.labelled(60, agree=True)
    assert "no snapshot" in str(court.gate()), "the next thing that this version lacks"
    court.start()
    assert "may only advise" not in str(court.plan().left_out)


def test_a_judge_that_is_trusted_by_name_decides_unproven(court: Court) -> None:
    court.declare(judges={"trusted": ["judge"]})
    assert "no snapshot" in str(court.gate())
    court.start()
    assert "may only advise" not in str(court.plan().left_out)


def test_a_judge_as_guardrail_is_refused_too(court: Court) -> None:
    check = {
        "name": "check", "type": "string_check", "operation": "eq",
        "input": "{{ sample.output_text }}", "reference": "yes",
    }  # fmt: skip
    guarded = {"primary": "check", "guardrails": ["error_rate", "judge"]}
    court.declare(graders=[JUDGE, check], release=guarded)
    with pytest.raises(NotEnoughEvidence, match="judge judge may only advise"):
        court.start()
    court.declare(graders=[JUDGE, check], release={"primary": "check"})
    court.start()

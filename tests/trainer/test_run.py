"""Whole runs on the tiny model, with a real lake and a real MLflow server."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from everlearn.cli import main
from everlearn.config import Service
from everlearn.errors import NotEnoughEvidence, NothingLearned, TrainingError
from everlearn.lake.ducklake import DuckLake, open_lake
from everlearn.task import Task, load_task
from registry.lineage import lineage
from registry.record import artifact
from registry.versions import Registry
from tests.trainer.production import completion, fill, make_production, thumbs
from tests.trainer.tiny import THINGS
from trainer.adapter import content_digest
from trainer.outcome import Outcome
from trainer.plan import plan
from trainer.run import train

pytestmark = pytest.mark.slow


class World:
    """A service with its lake, task and registry; each with a task name of its own in MLflow."""

    def __init__(self, folder: Path, model: Path, mlflow: str, **train: Any) -> None:
        self.name = f"colours-{folder.name[-20:].lower()}".rstrip("_-")
        self.service: Service = make_production(folder, model, mlflow, task=self.name, **train)
        self.task: Task = load_task(self.service, self.name)
        self.lake: DuckLake = open_lake(self.service)
        self.registry = Registry(self.service)
        self.lines: list[str] = []

    def train(self, **options: Any) -> Outcome:
        made = plan(self.lake, self.task, self.registry, salt="", **options)
        return train(self.service, self.task, made, self.registry, self.lines.append)

    def runs(self) -> list[Any]:
        client = self.registry.client
        found = client.get_experiment_by_name(self.name)
        return list(client.search_runs([found.experiment_id])) if found else []


@pytest.fixture
def world(tmp_path: Path, model: Path, mlflow: str) -> Iterator[World]:
    made = World(tmp_path, model, mlflow)
    yield made
    made.lake.close()


def test_from_feedback_to_a_registered_version_that_the_gate_lets_pass(world: World) -> None:
    fill(world.lake, world.name)
    outcome = world.train(method="sft")
    assert outcome.version == "1"
    assert outcome.tried[0]["heldout_expert"] == 1.0
    assert outcome.champion["heldout_expert"] == 0.0

    version = world.registry.get(world.name, "1")
    assert version.model_name == outcome.model_name == f"{world.name}-{version.digest[:12]}"
    assert version.path is not None
    assert content_digest(version.path) == version.digest
    assert {file.name for file in version.path.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "base_probes.json",
        "everlearn.json",
        "probes.json",
    }
    origin = json.loads((version.path / "everlearn.json").read_text())
    expected = {"task": world.name, "digest": version.digest, "method": "sft"}
    assert origin == origin | expected | {"precision": "float32"}
    for probe in json.loads((version.path / "probes.json").read_text()):
        assert len(probe["token_ids"]) == len(probe["logprobs"]) > 0
        assert max(probe["logprobs"]) <= 0.0

    assert lineage(world.registry, world.name, "1").snapshots == (outcome.snapshot_id,)
    manifest = json.loads(artifact(world.registry, version, "manifest.json"))
    assert manifest["counts"] == outcome.counts
    run = world.runs()[0]
    assert run.data.tags["everlearn.outcome"] == "registered"
    assert run.data.params["champion"] == "base"
    assert run.data.params["sft.precision"] == "float32"
    history = world.registry.client.get_metric_history(run.info.run_id, "sft/loss")
    assert len(history) == world.task.train.max_steps

    # The same data and seed again: the same weights, so the same version.
    again = world.train(method="sft", snapshot_id=outcome.snapshot_id)
    assert (again.version, again.model_name) == ("1", outcome.model_name)
    # A retraining by schedule waits for news.
    with pytest.raises(NotEnoughEvidence, match=r"0 newly judged answers < train\.min_new"):
        world.train()


def test_auto_says_what_it_tried_what_each_reached_and_why_it_chose(world: World) -> None:
    fill(world.lake, world.name)
    outcome = world.train()
    # The cheapest has every select row right: no other could be chosen.
    assert [row["name"] for row in outcome.tried] == ["sft"]
    assert outcome.method == "sft"
    assert set(outcome.left_out) == {"kto", "dpo", "rft"}
    assert "not tried: sft has 1.000 on" in outcome.left_out["rft"]
    assert outcome.reason.startswith("sft ")
    assert any(line.startswith("chosen: ") for line in world.lines)


def test_a_scheduled_training_ends_before_it_begins_where_nothing_is_left_to_win(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(world.lake, world.name)
    asked = []

    def nothing(scores: Any, top: Any, effect: float) -> str:
        asked.append((set(scores), top, effect))
        return "the champion is perfect"

    monkeypatch.setattr("trainer.run.nothing_to_win", nothing)
    with pytest.raises(NotEnoughEvidence, match="nothing to learn yet: the champion is perfect"):
        world.train()
    assert asked == [({0.0, 1.0}, 1.0, world.task.release.smallest_effect)]
    (run,) = world.runs()
    assert run.data.tags["everlearn.outcome"] == "not_enough_evidence"
    assert world.registry.versions(world.name) == []
    assert not any("step" in line for line in world.lines)


def test_auto_tries_the_dearer_where_something_is_left_and_stops_at_the_budget(
    tmp_path: Path, model: Path, mlflow: str
) -> None:
    world = World(tmp_path, model, mlflow, learning_rate=1e-5, max_steps=400, budget_minutes=0.05)
    fill(world.lake, world.name)
    outcome = world.train()
    # sft learns next to nothing in its share of the three seconds, and is examined all the same; as
    # nothing cheaper helps, rft gets what is left, if anything is.
    assert outcome.tried[0]["name"] == "sft"
    assert any("sft: stopped at step" in line for line in world.lines)
    assert outcome.left_out["dpo"].startswith("not tried: needs about ")
    given = any("rft: nothing cheaper helped: it gets the" in line for line in world.lines)
    assert given or outcome.left_out["rft"].startswith("not tried: needs about ")
    world.lake.close()


def test_too_little_data_is_recorded_and_makes_no_version(world: World) -> None:
    rows = [completion(number, THINGS[number], "colour", task=world.name) for number in range(5)]

    def write(transaction: Any) -> None:
        transaction.append("completions", rows)
        transaction.append("feedback", [thumbs(number, True) for number in range(5)])

    world.lake.commit(write)
    with pytest.raises(NotEnoughEvidence, match=r"sft: \d accepted or corrected answers < 10"):
        world.train()
    (run,) = world.runs()
    assert run.data.tags["everlearn.outcome"] == "not_enough_evidence"
    assert "too little to learn from" in run.data.tags["everlearn.reason"]
    assert world.registry.versions(world.name) == []


def test_a_failed_training_is_recorded_and_makes_no_version(
    tmp_path: Path, model: Path, mlflow: str
) -> None:
    world = World(tmp_path, model, mlflow, learning_rate=1e30)
    fill(world.lake, world.name)
    with pytest.raises(TrainingError, match=r"sft: .* at step"):
        world.train(method="sft")
    (run,) = world.runs()
    assert run.info.status == "FAILED"
    assert "at step" in run.data.tags["everlearn.reason"]
    assert world.registry.versions(world.name) == []
    world.lake.close()


def test_a_version_that_answers_as_its_parent_is_refused(
    tmp_path: Path, model: Path, mlflow: str
) -> None:
    world = World(tmp_path, model, mlflow, learning_rate=1e-30)
    fill(world.lake, world.name)
    with pytest.raises(NothingLearned, match=r"no token's logprob moved"):
        world.train(method="sft")
    (run,) = world.runs()
    assert run.data.tags["everlearn.outcome"] == "nothing_learned"
    assert world.registry.versions(world.name) == []
    world.lake.close()


def test_a_version_that_is_its_parent_is_refused(tmp_path: Path, model: Path, mlflow: str) -> None:
    world = World(tmp_path, model, mlflow, max_steps=5)
    fill(world.lake, world.name)
    outcome = world.train(method="sft")
    world.registry.set_alias(world.name, "champion", outcome.version)
    with pytest.raises(NothingLearned, match=r"the adapter is the champion's, byte for byte"):
        world.train(method="sft", snapshot_id=outcome.snapshot_id)
    assert len(world.registry.versions(world.name)) == 1
    world.lake.close()


def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[int, str, str]:
    """Exit code, output and errors of `everlearn WORDS`."""
    monkeypatch.setattr(sys, "argv", ["everlearn", *words])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    code = ended.value.code
    return (code if isinstance(code, int) else 0), said.out, said.err


def test_a_dry_run_prints_the_plan_and_leaves_nothing(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fill(world.lake, world.name)
    world.lake.close()
    config = str(tmp_path / "everlearn.yaml")
    words = ("train", world.name, "--dry-run", "--config", config)
    code, out, _ = call(monkeypatch, capsys, *words, "--json")
    assert code == 0
    summary = json.loads(out)
    assert summary["would_train"] == ["sft", "kto", "dpo", "rft"]
    assert summary["counts"]["train"]["correction"] > 0
    assert summary["early_stop"].endswith(" select rows with a right answer < 32")
    assert summary["precision"] == dict.fromkeys(summary["would_train"], "float32")
    _, out, _ = call(monkeypatch, capsys, *words, "--method", "dpo")
    assert out.startswith(f"{world.name}: dpo: dpo was asked for\n  train: ")
    assert out.endswith(f"  float32: dpo\n  early stop: {summary['early_stop']}\n")
    world.lake = open_lake(world.service)
    assert world.lake.read("SELECT * FROM snapshots").num_rows == 0
    assert world.runs() == []


def test_a_snapshot_made_by_the_command_can_be_trained_on(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fill(world.lake, world.name)
    config = ("--config", str(tmp_path / "everlearn.yaml"))
    _, out, _ = call(monkeypatch, capsys, "snapshot", world.name, "--json", *config)
    made = json.loads(out)["snapshot_id"]
    words = ("train", world.name, "--method", "sft", "--snapshot", made, *config)
    code, out, err = call(monkeypatch, capsys, *words)
    assert code == 0
    assert f"snapshot {made}, champion base" in out
    assert "  version 1 (" in out
    assert "sft: step 40/40" in err


def test_the_command_refuses_with_exit_3_and_one_line(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = ("--config", str(tmp_path / "everlearn.yaml"))
    code, _, err = call(monkeypatch, capsys, "train", world.name, *config)
    assert code == 3
    assert err.startswith(f"everlearn: task {world.name}: too little to learn from")
    assert len(err.strip().splitlines()) == 1

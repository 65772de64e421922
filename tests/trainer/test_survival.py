"""Runs that are killed at any step go on, and end with the bytes of an undisturbed one."""

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from everlearn.errors import TrainingError
from tests.trainer.production import fill
from tests.trainer.test_run import World
from trainer.checkpoint import Checkpoints
from trainer.workbench import import_trainers, quiet

pytestmark = pytest.mark.slow

STEPS = 12


@pytest.fixture
def world(tmp_path: Path, model: Path, mlflow: str) -> Iterator[World]:
    quiet()
    import_trainers()
    made = World(tmp_path, model, mlflow, max_steps=STEPS, checkpoint_seconds=0.0, early_stop=True)
    fill(made.lake, made.name)
    yield made
    made.lake.close()


def place(world: World) -> Path:
    return world.service.data_path / "training" / world.name


def killed(world: World, method: str, snapshot_id: str, step: int) -> bool:
    """Train in a process of its own that is killed as soon as `step` is on disk; whether it was
    killed before its end."""

    def work() -> None:
        world.train(method=method, snapshot_id=snapshot_id)
        os._exit(0)

    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    mark = place(world) / method / f"checkpoint-{step}"
    while child.is_alive() and not mark.exists():
        time.sleep(0.001)
    if child.is_alive():
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
    child.join()
    return child.exitcode == -signal.SIGKILL


def undisturbed(world: World, method: str) -> tuple[str, str]:
    """The version's name and its snapshot; the registry forgets neither."""
    outcome = world.train(method=method)
    return outcome.model_name, outcome.snapshot_id


@pytest.mark.parametrize("method", ["sft", "rft"])
def test_a_run_killed_at_any_step_ends_as_an_undisturbed_one(world: World, method: str) -> None:
    name, snapshot_id = undisturbed(world, method)
    shutil.rmtree(world.service.data_path / "adapters")
    assert killed(world, method, snapshot_id, 2)
    assert killed(world, method, snapshot_id, 7)
    world.lines.clear()
    outcome = world.train(method=method, snapshot_id=snapshot_id)
    assert outcome.model_name == name
    assert any(line.startswith("run ") and "taken up" in line for line in world.lines)
    assert any(line.startswith(f"{method}: goes on at checkpoint-") for line in world.lines)
    assert not place(world).exists()
    statuses = sorted(run.info.status for run in world.runs())
    assert statuses == ["FINISHED", "FINISHED"]


def test_a_dead_run_of_another_task_file_is_closed_as_killed(world: World) -> None:
    _, snapshot_id = undisturbed(world, "sft")
    assert killed(world, "sft", snapshot_id, 2)
    world.task = world.task.model_copy(
        update={"train": world.task.train.model_copy(update={"seed": 7})}
    )
    outcome = world.train(method="sft", snapshot_id=snapshot_id)
    runs = {run.info.run_id: run for run in world.runs()}
    (dead,) = [run for run in runs.values() if run.info.status == "KILLED"]
    assert dead.data.tags["everlearn.outcome"] == "killed"
    assert "have changed since" in dead.data.tags["everlearn.reason"]
    assert runs[outcome.run_id].info.status == "FINISHED"
    assert not any("goes on at" in line for line in world.lines)


def test_a_disk_that_is_full_costs_the_checkpoint_and_not_the_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Checkpoints, trainer: Any, part: Path) -> None:
        part.mkdir(parents=True)
        raise OSError(28, "No space left on device", str(part / "optimizer.pt"))

    monkeypatch.setattr(Checkpoints, "_write", full)
    outcome = world.train(method="sft")
    assert outcome.version == "1"
    said = [line for line in world.lines if line.startswith("no checkpoint at step ")]
    assert len(said) == STEPS - 1
    assert "No space left on device" in said[0]
    assert "would be taken up at the beginning" in said[0]


def test_half_a_checkpoint_is_none(tmp_path: Path) -> None:
    for step, files in ((5, ["a"]), (10, ["a"]), (15, [])):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "checkpoint.json").write_text('{"a": 2}')
        for name in files:
            (folder / name).write_text("xy")
    (tmp_path / ".part-20").mkdir()
    found = Checkpoints(tmp_path, 0.0, print)
    assert found.latest() == tmp_path / "checkpoint-10"
    (tmp_path / "checkpoint-10" / "a").write_text("x")
    assert found.latest() == tmp_path / "checkpoint-5"


def test_a_failed_training_leaves_nothing_to_take_up(world: World) -> None:
    broken = world.task.train.model_copy(update={"learning_rate": 1e30})
    world.task = world.task.model_copy(update={"train": broken})
    with pytest.raises(TrainingError):
        world.train(method="sft")
    assert not place(world).exists()

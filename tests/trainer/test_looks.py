"""A run is looked at as it goes: what hacks its reward ends, and does not pass the gate."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from everlearn.errors import TrainingError
from everlearn.task import load_task, read_tasks
from registry.gate import Evidence, Phase, Row
from registry.judgement import judge
from tests.trainer.test_rft_prompts import LOOKED_UP, Shop
from trainer import looks as looking
from trainer.evidence import mean
from trainer.hacking import Finding, Look, best_of
from trainer.looks import unwatched
from trainer.plan import plan
from trainer.run import train

RED = "def grade(sample, item):\n    return float(sample['output_text'].startswith('red'))\n"
LIKE = {
    **LOOKED_UP,
    "name": "like",
    "input": "SELECT '{{sample.output_text}}' || ''",
}


def rewarding(folder: Path, shop: Shop, *graders: dict[str, Any]) -> None:
    """The task is rewarded by these graders, and held to what the table says."""
    path = folder / "tasks" / "colours.yaml"
    content = yaml.safe_load(path.read_text())
    formula = " + ".join(grader["name"] for grader in graders)
    content |= {
        "graders": [LOOKED_UP, *graders],
        "reward": {"type": "multi", "calculate_output": formula},
        "heldout": {"percent": 80},
    }
    path.write_text(yaml.safe_dump(content))
    shop.task = load_task(shop.service, shop.name)


@pytest.fixture
def shop(tmp_path: Path, model: Path, mlflow: str) -> Iterator[Shop]:
    made = Shop(tmp_path, model, mlflow)
    yield made
    made.lake.close()


@pytest.mark.slow
def test_a_run_that_hacks_its_reward_from_the_start_makes_no_version(
    shop: Shop, tmp_path: Path
) -> None:
    rewarding(tmp_path, shop, {"type": "python", "name": "is_red", "source": RED})
    made = plan(shop.lake, shop.task, shop.registry, salt="", method="rft")
    with pytest.raises(TrainingError, match=r"reward hacking: from step 0 .* before the first"):
        train(shop.service, shop.task, made, shop.registry, lambda _: None)
    assert shop.registry.versions(shop.name) == []


@pytest.mark.slow
def test_a_finding_ends_the_run_at_its_best_look_and_blocks_the_gate(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewarding(tmp_path, shop, LIKE)
    seen: list[Look] = []

    def after_four(looks: Sequence[Look]) -> Finding | None:
        seen[:] = looks
        return Finding(best_of(looks), "reward hacking: planted") if len(looks) == 4 else None

    monkeypatch.setattr(looking, "hacked", after_four)
    made = plan(shop.lake, shop.task, shop.registry, salt="", method="rft")
    outcome = train(shop.service, shop.task, made, shop.registry, lambda _: None)
    best = best_of(seen)
    steps = shop.task.train.max_steps
    assert isinstance(steps, int)
    assert 0 < best.step <= seen[-1].step < steps
    assert outcome.finding == (f"reward hacking: planted; the adapter is that of step {best.step}")
    # The version is the best look's: on the same prompts it gives the same answers.
    assert outcome.tried[0]["heldout"] == pytest.approx(mean(best.heldout))
    logged = shop.registry.client.get_metric_history(outcome.run_id, "rft/look/heldout")
    assert [each.step for each in logged] == [look.step for look in seen]
    kl = shop.registry.client.get_metric_history(outcome.run_id, "rft/look/kl")
    assert kl[0].value == pytest.approx(0.0, abs=1e-6)
    assert kl[-1].value > 0.01

    rows = [Row(prompt_key=str(n), champion=0.0, candidate=1.0) for n in range(50)]
    evidence = Evidence(task=shop.name, champion="base", candidate=outcome.version, rows=rows)
    verdict = judge(shop.registry, evidence, shop.task.gate)
    assert verdict.phase is Phase.FAILED
    assert verdict.reason == outcome.finding


def test_nobody_watches_where_the_held_out_grader_is_part_of_the_reward(
    shop: Shop, tmp_path: Path
) -> None:
    select = plan(shop.lake, shop.task, shop.registry, salt="", method="rft").snapshot.rows
    assert unwatched(shop.task, select) == "the held-out grader looked_up is part of the reward"
    rewarding(tmp_path, shop, LIKE)
    assert unwatched(shop.task, select) is None
    assert unwatched(shop.task, select[:3]) == "3 select prompts < 10"


def test_config_check_says_when_nobody_watches(shop: Shop, tmp_path: Path) -> None:
    path = tmp_path / "tasks" / "colours.yaml"
    content = yaml.safe_load(path.read_text())
    content["train"]["method"] = "rft"
    content["reward"] = {"type": "multi", "calculate_output": "0.5 * looked_up + 0.5"}
    path.write_text(yaml.safe_dump(content))
    assert any("nobody watches an RFT run" in note for note in read_tasks(shop.service).notes)
    rewarding(tmp_path, shop, LIKE)
    assert not any("nobody watches" in note for note in read_tasks(shop.service).notes)

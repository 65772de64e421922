"""The reward of an RFT that runs may be edited; what cannot be taken changes nothing."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from everlearn.config import Service
from everlearn.errors import ConfigError, InputError
from everlearn.task import Task
from tests.builders import make_service
from tests.trainer.examples import make_row
from tests.trainer.production import MATCHES
from tests.trainer.test_rft_prompts import Shop
from tests.trainer.test_run import call
from trainer.plan import plan
from trainer.reward import reward_grader
from trainer.rewarding import ASKED, Edit, Rewarding, ask, edited, shown
from trainer.run import train
from trainer.workplace import Workplace

RED = {**MATCHES, "name": "red", "reference": "red"}
SHORT = {**MATCHES, "name": "short", "reference": "b"}
HELD = {**MATCHES, "name": "held", "reference": "blue"}
JUDGE = {
    **{"type": "score_model", "name": "judge", "model": "m", "range": [0, 1]},
    "input": [{"role": "user", "content": "{{sample.output_text}}"}],
}


def make_task(*graders: dict[str, Any], formula: str = "red") -> Task:
    return Task.model_validate(
        {
            **{"task": "t", "base_model": "m", "upstream": "local"},
            **{"graders": [*graders], "heldout": {"grader": "held"}},
            "reward": {"type": "multi", "calculate_output": formula},
            "release": {"primary": "held"},
        }
    )


TASK = make_task(RED, SHORT, HELD, MATCHES, JUDGE)


@pytest.mark.parametrize(
    ("formula", "complaint"),
    [
        ("red +", "is not a formula"),
        ("__import__(1)", "no function"),
        ("green", "reads green; there are red, short, held"),
        ("1 + 1", "reads no grader"),
        ("red + held", "held watches this run for reward hacking"),
        ("red + judge", "judge asks a model"),
        ("red + matches", "needs right answers"),
    ],
)
def test_a_formula_that_cannot_be_taken_says_why(formula: str, complaint: str) -> None:
    with pytest.raises((InputError, ConfigError), match=complaint.replace("+", r"\+")):
        edited(TASK, formula)


def test_what_the_reward_reads_already_it_may_go_on_reading() -> None:
    task = make_task(RED, HELD, MATCHES, JUDGE, formula="judge + held + matches")
    assert edited(task, "2*judge - held*matches").calculate_output == "2*judge - held*matches"


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return make_service(tmp_path)


@pytest.fixture
def rewarding(service: Service, tmp_path: Path) -> Iterator[Rewarding]:
    made = make(service, tmp_path, [])
    yield made
    made.close()


def make(service: Service, folder: Path, lines: list[str]) -> Rewarding:
    reward = reward_grader(TASK)
    assert reward is not None
    return Rewarding(service, TASK, reward, folder, lines.append)


def graded(rewarding: Rewarding, answer: str) -> float | None:
    return rewarding([make_row()], [answer])[0]


def test_an_edit_is_graded_by_from_the_next_step_on(rewarding: Rewarding, tmp_path: Path) -> None:
    assert rewarding.begin(1) is None
    assert (graded(rewarding, "red"), graded(rewarding, "b")) == (1.0, 0.0)
    ask(tmp_path, "0.25*red + short")
    # Until the next step begins, nothing has changed.
    assert graded(rewarding, "b") == 0.0
    assert rewarding.begin(2) == Edit(2, "0.25*red + short")
    assert (graded(rewarding, "red"), graded(rewarding, "b")) == (0.25, 1.0)
    assert rewarding.begin(3) is None
    assert graded(rewarding, "b") == 1.0
    assert rewarding.since == 2
    assert shown(rewarding.edits) == "from step 2: 0.25*red + short"


@pytest.mark.parametrize("asked", ['"red +"', '"green"', "half a li", '["red"]'])
def test_what_does_not_parse_leaves_the_old_reward_in_force(
    service: Service, tmp_path: Path, asked: str
) -> None:
    lines: list[str] = []
    made = make(service, tmp_path, lines)
    (tmp_path / ASKED).write_text(asked)
    assert made.begin(5) is None
    assert graded(made, "red") == 1.0
    assert made.edits == []
    assert lines[0].startswith("rft: the reward stays 'red': ")
    # It is said once.
    made.begin(6)
    assert len(lines) == 1
    made.close()


def test_a_run_that_is_taken_up_grades_each_step_as_it_was_graded(
    rewarding: Rewarding, service: Service, tmp_path: Path
) -> None:
    for step, formula in ((3, "short"), (6, "red + short")):
        ask(tmp_path, formula)
        rewarding.begin(step)
    again = make(service, tmp_path, [])
    seen = []
    for step in range(1, 8):
        assert again.begin(step) is None
        seen.append((graded(again, "red"), graded(again, "b")))
    assert seen == [(1.0, 0.0)] * 2 + [(0.0, 1.0)] * 3 + [(1.0, 1.0)] * 2
    again.close()


@pytest.mark.slow
def test_the_command_changes_a_run_under_way_and_its_record_says_so(
    tmp_path: Path,
    model: Path,
    mlflow: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shop = Shop(tmp_path, model, mlflow, max_steps=4)
    words = ("train", "reward", "edit", shop.name)
    config = ("--config", str(tmp_path / "everlearn.yaml"))
    said: list[tuple[int, str]] = []

    def edit(formula: str) -> None:
        code, _, problem = call(monkeypatch, capsys, *words, formula, *config)
        said.append((code, problem))

    edit("0.5*looked_up")
    assert said.pop() == (2, f"everlearn: task {shop.name}: no training is under way\n")

    def meanwhile(line: str) -> None:
        if line.startswith("champion "):
            edit("0.5*looked_up +")
            edit("0.5*looked_up")

    made = plan(shop.lake, shop.task, shop.registry, salt="", method="rft")
    outcome = train(shop.service, shop.task, made, shop.registry, meanwhile)
    assert [code for code, _ in said] == [2, 0]
    assert "is not a formula" in said[0][1]
    client = shop.registry.client
    rewards = [each.value for each in client.get_metric_history(outcome.run_id, "reward")]
    assert len(rewards) == 4
    assert max(rewards) <= 0.5
    marks = client.get_metric_history(outcome.run_id, "rft/reward_edited")
    assert [each.step for each in marks] == [1]
    logged = client.get_run(outcome.run_id).data.params
    assert logged["rft.reward_edits"] == "from step 1: 0.5*looked_up"
    assert not Workplace(shop.service, shop.task).folder.exists()
    shop.lake.close()


def test_an_edit_is_handed_over_whole(tmp_path: Path) -> None:
    ask(tmp_path, "red")
    ask(tmp_path, "short")
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == [ASKED]
    assert json.loads((tmp_path / ASKED).read_text()) == "short"

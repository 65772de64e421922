"""The reward of an RFT that runs may be edited; what cannot be taken changes nothing."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from everlearn.config import Service
from everlearn.errors import ConfigError, InputError
from everlearn.state import State, open_state
from everlearn.task import Task
from registry.training import KIND as LOCK
from registry.training import STALE_SECONDS
from tests.builders import make_service
from tests.trainer.examples import make_row
from tests.trainer.production import MATCHES
from tests.trainer.production import make_production as production_of
from tests.trainer.test_rft_prompts import Shop
from tests.trainer.test_run import call
from trainer.plan import plan
from trainer.reward import reward_grader
from trainer.rewarding import Edit, Edits, Rewarding, ask, edited, shown
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
def state(service: Service) -> Iterator[State]:
    made = open_state(service)
    yield made
    made.close()


@pytest.fixture
def rewarding(service: Service, tmp_path: Path) -> Iterator[Rewarding]:
    made = make(service, tmp_path, [])
    yield made
    made.close()


def make(service: Service, folder: Path, lines: list[str], run_id: str = "run") -> Rewarding:
    reward = reward_grader(TASK)
    assert reward is not None
    edits = Edits(service, TASK.task, run_id, folder)
    return Rewarding(service, TASK, reward, edits, lines.append)


def graded(rewarding: Rewarding, answer: str) -> float | None:
    return rewarding([make_row()], [answer])[0]


def test_an_edit_is_graded_by_from_the_next_step_on(rewarding: Rewarding, state: State) -> None:
    assert rewarding.begin(1) is None
    assert (graded(rewarding, "red"), graded(rewarding, "b")) == (1.0, 0.0)
    ask(state, TASK.task, "run", "0.25*red + short")
    # Until the next step begins, nothing has changed.
    assert graded(rewarding, "b") == 0.0
    assert rewarding.begin(2) == Edit(2, "0.25*red + short")
    assert (graded(rewarding, "red"), graded(rewarding, "b")) == (0.25, 1.0)
    assert rewarding.begin(3) is None
    assert graded(rewarding, "b") == 1.0
    assert rewarding.since == 2
    assert shown(rewarding.edits) == "from step 2: 0.25*red + short"


@pytest.mark.parametrize("asked", ["red +", "green", "", "['red']"])
def test_what_does_not_parse_leaves_the_old_reward_in_force(
    service: Service, state: State, tmp_path: Path, asked: str
) -> None:
    lines: list[str] = []
    made = make(service, tmp_path, lines)
    ask(state, TASK.task, "run", asked)
    assert made.begin(5) is None
    assert graded(made, "red") == 1.0
    assert made.edits == []
    assert lines[0].startswith("rft: the reward stays 'red': ")
    # It is said once.
    made.begin(6)
    assert len(lines) == 1
    made.close()


def test_a_run_that_is_taken_up_grades_each_step_as_it_was_graded(
    rewarding: Rewarding, service: Service, state: State, tmp_path: Path
) -> None:
    for step, formula in ((3, "short"), (6, "red + short")):
        ask(state, TASK.task, "run", formula)
        rewarding.begin(step)
    again = make(service, tmp_path, [])
    seen = []
    for step in range(1, 8):
        assert again.begin(step) is None
        seen.append((graded(again, "red"), graded(again, "b")))
    assert seen == [(1.0, 0.0)] * 2 + [(0.0, 1.0)] * 3 + [(1.0, 1.0)] * 2
    again.close()


def test_the_last_word_before_a_step_counts_and_is_for_that_run_alone(
    rewarding: Rewarding, service: Service, state: State, tmp_path: Path
) -> None:
    other = make(service, tmp_path / "other", [], run_id="another")
    for formula in ("short", "red + short"):
        ask(state, TASK.task, "run", formula)
    assert other.begin(1) is None
    assert rewarding.begin(1) == Edit(1, "red + short")
    other.close()


def test_what_is_asked_for_while_an_edit_is_taken_comes_next(
    service: Service, state: State, tmp_path: Path
) -> None:
    reward = reward_grader(TASK)
    assert reward is not None
    edits = Edits(service, TASK.task, "run", tmp_path)
    made = Rewarding(service, TASK, reward, edits, lambda line: None)
    ask(state, TASK.task, "run", "short")
    asked = edits.asked()
    assert asked is not None
    ask(state, TASK.task, "run", "0.5*red")
    edits.settle(asked[1])
    assert made.begin(1) == Edit(1, "0.5*red")
    made.close()


def test_a_store_that_is_away_leaves_the_reward_as_it_is(
    rewarding: Rewarding, state: State
) -> None:
    ask(state, TASK.task, "run", "short")
    with state.transaction() as connection:
        connection.execute(text("ALTER TABLE documents RENAME TO away"))
    assert rewarding.begin(1) is None
    assert graded(rewarding, "red") == 1.0
    with state.transaction() as connection:
        connection.execute(text("ALTER TABLE away RENAME TO documents"))
    assert rewarding.begin(2) == Edit(2, "short")


@pytest.mark.parametrize(
    ("silent_seconds", "code"), [(-3600.0, 0), (2 * STALE_SECONDS, 2)], ids=["alive", "dead"]
)
def test_a_run_on_another_machine_is_edited_while_its_heart_beats(
    silent_seconds: float,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    service = production_of(tmp_path, tmp_path / "model", "http://127.0.0.1:1")
    holder = {"id": "hold", "host": "elsewhere/boot/namespace", "pid": 1, "started": "1"}
    run = {"run_id": "far", "method": "rft"}
    beat = time.time() - silent_seconds
    state = open_state(service)
    state.put(LOCK, "colours", {"holder": holder, "beat": beat, "run": run})
    config = ("--config", str(tmp_path / "everlearn.yaml"))
    words = ("train", "reward", "edit", "colours", "0.5*matches", *config)
    found, _, problem = call(monkeypatch, capsys, *words)
    assert found == code, problem
    edits = Edits(service, "colours", "far", tmp_path)
    asked = edits.asked()
    assert (asked and asked[0]) == ("0.5*matches" if code == 0 else None)
    edits.close()
    state.close()


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

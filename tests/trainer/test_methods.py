"""Each method teaches the tiny model a word and forgets nothing; real TRL trainers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from everlearn.config import Service, load
from everlearn.task import Task, load_task
from tests.builders import make_service
from tests.trainer.production import make_task
from tests.trainer.tiny import COLOURS, THINGS, WORDS, colour, first_answer, question
from trainer.evidence import answer
from trainer.methods import Method, TrainingData
from trainer.methods.auto import METHODS
from trainer.reward import Grading, reward_grader, trl_reward
from trainer.rows import Row
from trainer.workbench import Workbench, fit

pytestmark = pytest.mark.slow


def production() -> TrainingData:
    """Two of three things corrected, thumbs on some, and ordinary answers."""
    rows = []
    for number, thing in enumerate(THINGS):
        for word in WORDS:
            given = first_answer(thing, word)
            fields: dict[str, Any] = {
                "completion_id": f"{word}-{thing}",
                "unit": thing,
                "messages": question(thing, word),
                "completion": given,
            }
            if word == "colour":
                kind: Any = ("accepted", "replay")[number % 2]
                target = given if kind == "accepted" else None
                rows.append(Row(**fields, kind=kind, target=target, author="end_user"))
            elif number % 3:
                fields["kind"], fields["author"] = "correction", "expert"
                rows.append(Row(**fields, target=colour(thing)))
    return TrainingData(tuple(rows))


@pytest.fixture
def service(tmp_path: Path, model: Path) -> Service:
    make_task(tmp_path, model)
    make_service(tmp_path)
    return load(tmp_path / "everlearn.yaml")


@pytest.fixture
def task(service: Service) -> Task:
    return load_task(service, "colours")


def right(model: Any, bench: Workbench, word: str) -> float:
    """Share of things answered right."""
    made = answer(model, bench, [question(thing, word) for thing in THINGS])
    pairs = zip(made.answers, THINGS, strict=True)
    return sum(each.text == colour(thing) for each, thing in pairs) / len(THINGS)


# (Hindsight learns from comments: tests/trainer/test_hindsight.py.)
@pytest.mark.parametrize(
    "method",
    [method for method in METHODS if method.name != "hindsight"],
    ids=lambda method: str(method.name),
)
def test_a_method_learns_the_word_for_things_never_corrected_and_forgets_nothing(
    method: Method, service: Service, task: Task, tmp_path: Path
) -> None:
    data = production()
    bench = Workbench(task, task.base_model, tmp_path / "scratch")
    grading = Grading(task, service, reward_grader(task))
    lines: list[str] = []

    def reward(rows: Sequence[Row]) -> Any:
        return trl_reward(grading, rows)

    trained = fit(method.name, method.build(data, bench, reward), lines.append)
    grading.close()
    assert right(trained.model, bench, "shade") >= 0.9
    assert right(trained.model, bench, "colour") >= 0.9
    names = {name for name, _, _ in trained.metrics}
    assert f"{method.name}/loss" in names
    assert (f"{method.name}/replay_loss" in names) == (method.name != "sft")
    assert ("reward" in names) == (method.name == "rft")
    assert lines[-1].startswith(f"{method.name}: step 40/40, loss ")


def test_the_base_model_knows_one_word_only(task: Task, tmp_path: Path) -> None:
    bench = Workbench(task, task.base_model, tmp_path)
    base = bench.adapted(None)
    assert right(base, bench, "colour") == 1.0
    assert right(base, bench, "shade") == 0.0
    assert len(COLOURS) == 4

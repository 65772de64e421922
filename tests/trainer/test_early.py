"""A run that gets worse at held-out answers ends at its best look; any other one is as it was."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn.rules import Train
from tests.trainer.examples import accepted, corrected, make_row
from tests.trainer.production import fill
from tests.trainer.test_run import World
from tests.trainer.test_settings import make as settings_for
from tests.trainer.test_workbench import make_bench
from tests.trainer.tiny import COLOURS, THINGS, colour, question
from trainer import adapter as adapters
from trainer import early as stop
from trainer.early import AUTO_ROWS, Early, Look, answered, best_of, overfitted, stopping, unstopped
from trainer.hacking import MIN_PROMPTS
from trainer.methods import TrainingData, sft
from trainer.rows import Row
from trainer.workbench import Workbench, fit, quiet, seeded

STEPS = 48


def looks(*losses: float, rows: int = 40) -> list[Look]:
    """One look after the other; rows differ from each other, and each from look to look."""
    return [
        Look(step, tuple(loss + 0.01 * ((row * 7 + step) % 5) for row in range(rows)))
        for step, loss in enumerate(losses)
    ]


def test_a_fall_on_two_looks_in_a_row_goes_back_to_the_best() -> None:
    found = overfitted(looks(2.0, 0.5, 0.8, 1.0))
    assert found is not None
    assert found.best.step == 1
    assert "from step 1 to 3 the likelihood of 40 select answers fell from 0." in found.reason


@pytest.mark.parametrize(
    "losses",
    [
        (2.0, 0.5),
        (2.0, 0.5, 0.8),
        (2.0, 0.5, 0.8, 0.5),
        (2.0, 1.0, 0.5, 0.5, 0.5),
        (2.0, 0.5, 0.501, 0.502),
    ],
    ids=["short", "one", "recovers", "level", "within chance"],
)
def test_a_run_goes_on_while_nothing_is_proven(losses: tuple[float, ...]) -> None:
    assert overfitted(looks(*losses)) is None


def test_a_few_wrong_labels_do_not_end_a_run_that_gets_surer() -> None:
    """Their loss grows without bound, so that the mean loss of 20 rows more than doubles."""

    def seen(step: int, right: float, wrong: float) -> Look:
        return Look(step, (*[right] * 19, wrong))

    sure = [seen(0, 0.7, 2.0), seen(1, 0.05, 4.0), seen(2, 0.01, 9.0), seen(3, 0.001, 12.0)]
    assert sure[-1].loss > 2 * sure[1].loss
    assert overfitted(sure) is None


@given(st.integers(2, MIN_PROMPTS - 1))
def test_too_few_rows_prove_nothing(rows: int) -> None:
    assert overfitted(looks(0.1, 3.0, 4.0, 5.0, rows=rows)) is None


def test_only_rows_with_a_right_answer_of_people_are_read() -> None:
    rows = [
        accepted(split="select"),
        corrected(split="select"),
        corrected(split="select", author="comment"),
        make_row(split="select"),
    ]
    assert {row.kind for row in answered(rows)} == {"accepted", "correction"}
    assert len(answered(rows)) == 2
    assert answered(rows) == answered(rows[::-1])


def test_auto_wants_rows_and_more_than_one_pass() -> None:
    many, few = settings_for(Train(max_steps=60)), settings_for(Train(max_steps=8))
    assert (many.epochs > 1, few.epochs < 1) == (True, True)
    assert unstopped(Train(), AUTO_ROWS, many) is None
    assert unstopped(Train(), AUTO_ROWS, few) == "0.9 passes over the learned rows"
    assert unstopped(Train(), AUTO_ROWS - 1) == "31 select rows with a right answer < 32"
    assert unstopped(Train(early_stop=True), MIN_PROMPTS, few) is None
    assert unstopped(Train(early_stop=True), 9) == "9 select rows with a right answer < 10"
    assert unstopped(Train(early_stop=False), 99, many) == "train.early_stop is false"


def test_a_dry_run_says_which_runs_may_end_early() -> None:
    select = [corrected(split="select") for _ in range(70)]
    assert stop.forecast(Train(), select) == (
        "runs of sft, dpo, kto that pass over their rows more than once end once they get worse "
        "at 64 select answers"
    )
    assert stop.forecast(Train(early_stop=False), select) == "off: train.early_stop is false"


def other(thing: str) -> str:
    """A wrong colour."""
    return COLOURS[(COLOURS.index(colour(thing)) + 1) % len(COLOURS)]


@pytest.fixture
def bench(model: Path, tmp_path: Path) -> Workbench:
    quiet()
    return make_bench(model, tmp_path, max_steps=STEPS, batch_size=8, learning_rate=0.01)


def shades(right: Any, things: tuple[str, ...] = THINGS[:28]) -> list[Row]:
    return [
        accepted(messages=question(thing, "shade"), completion=right(thing)) for thing in things
    ]


SELECT = shades(colour, THINGS[28:])


def trained(bench: Workbench, early: Early | None, *, spoiled: bool) -> tuple[Any, list[Any]]:
    """After right answers in the first half of the run; in the second wrong ones if `spoiled`."""
    from datasets import Dataset

    seeded(0)
    trainer = sft.build(TrainingData(tuple(shades(colour))), bench, lambda rows: None)
    wrong = sft.layout(TrainingData(tuple(shades(other))), bench, STEPS)
    order = list(trainer.train_dataset)
    if spoiled:
        order = order[: len(order) // 2] + wrong[len(order) // 2 :]
    trainer.train_dataset = Dataset.from_list(order)
    sent: list[Any] = []
    if early is not None:
        trainer.add_callback(
            stopping(early, sent.extend, lambda: trainer.accelerator.unwrap_model(trainer.model))
        )
    return fit("sft", trainer, lambda _: None).model, sent


def digest(model: Any, bench: Workbench, folder: Path) -> str:
    return adapters.content_digest(adapters.save(model, bench, folder))


@pytest.mark.slow
def test_a_run_that_gets_worse_ends_at_its_best_look(bench: Workbench, tmp_path: Path) -> None:
    early = Early("sft", tmp_path, bench, SELECT)
    model, sent = trained(bench, early, spoiled=True)
    best = best_of(early.looks)
    assert early.finding is not None
    assert 0 < best.step <= STEPS // 2 < early.looks[-1].step < STEPS
    said = early.settle(model, STEPS)
    assert said is not None
    assert said.startswith(f"sft: stopped at step {early.looks[-1].step}/{STEPS}: from step ")
    assert said.endswith(f"; the adapter is that of step {best.step}")
    # What it has now reads the rows as it did then, and its files are those that were kept.
    again = Early("sft", tmp_path / "again", bench, SELECT)
    again.best.parent.mkdir()
    again.look(model, 0)
    assert again.looks[0].losses == pytest.approx(best.losses)
    assert digest(model, bench, tmp_path / "saved") == adapters.content_digest(early.best)
    curve = {step: value for name, value, step in sent if name == "sft/eval_loss"}
    assert curve == {look.step: look.loss for look in early.looks}
    assert min(curve) == 0


@pytest.mark.slow
def test_a_run_that_does_not_get_worse_has_the_bytes_of_one_that_nobody_looked_at(
    bench: Workbench, tmp_path: Path
) -> None:
    plain, _ = trained(bench, None, spoiled=False)
    early = Early("sft", tmp_path, bench, SELECT)
    looked_at, _ = trained(bench, early, spoiled=False)
    assert len(early.looks) == stop.LOOKS + 1
    assert early.settle(looked_at, STEPS) is None
    made = [digest(each, bench, tmp_path / str(n)) for n, each in enumerate((plain, looked_at))]
    assert made[0] == made[1]


def test_a_run_that_is_taken_up_knows_the_looks_before(bench: Workbench, tmp_path: Path) -> None:
    early = Early("sft", tmp_path, bench, SELECT)
    model = bench.adapted(None)
    for step in (0, 6, 12):
        early.look(model, step)
    later = Early("sft", tmp_path, bench, SELECT)
    later.go_on(6)
    assert later.looks == early.looks[:2]
    anew = Early("sft", tmp_path, bench, SELECT)
    anew.go_on(0)
    assert [look.step for look in anew.looks] == [0]


@pytest.fixture
def world(tmp_path: Path, model: Path, mlflow: str) -> Iterator[World]:
    made = World(tmp_path, model, mlflow, max_steps=16, early_stop=True)
    fill(made.lake, made.name)
    yield made
    made.lake.close()


@pytest.mark.slow
def test_the_curve_and_what_was_decided_stand_in_the_run(world: World) -> None:
    outcome = world.train(method="sft")
    client = world.registry.client
    curve = client.get_metric_history(outcome.run_id, "sft/eval_loss")
    assert [each.step for each in curve] == list(range(0, 17, 2))
    assert curve[-1].value < curve[0].value / 2
    assert client.get_run(outcome.run_id).data.params["sft.early_stop"] == "True"

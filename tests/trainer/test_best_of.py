"""Pairs from the served model's own answers, told apart by the reward: nobody labelled."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from everlearn.rules import BestOf
from everlearn.task import Task
from tests.trainer.examples import accepted, corrected, make_row, rejected
from tests.trainer.production import MATCHES
from tests.trainer.test_rft_prompts import Shop
from tests.trainer.tiny import colour
from trainer.best_of import Drawn, Source, candidates, draw, ends, with_pairs
from trainer.methods import TrainingData
from trainer.methods.dpo import pairs
from trainer.plan import plan
from trainer.reward import Verdict
from trainer.rows import BEST_OF, Row
from trainer.run import train
from trainer.sampling import ask_served
from trainer.snapshot import load, select

RUNS = {**MATCHES, "name": "runs", "reference": "x"}


def task(grader: dict[str, Any] = RUNS, **best_of: Any) -> Task:
    return Task.model_validate(
        {
            **{"task": "t", "base_model": "m", "upstream": "local", "graders": [grader]},
            "release": {"primary": grader["name"]},
            "train": {"best_of": {"margin": 0.5, **best_of}},
        }
    )


def drawn(row: Row, best: str | None, worst: str | None, lead: float = 1.0) -> Drawn:
    scores = {"best_score": None if best is None else lead, "worst_score": 0.0}
    named = {"completion_id": row.completion_id, "prompt_key": row.key}
    return Drawn(best=best, worst=worst, **named, **scores)  # type: ignore[arg-type]


def beside(rows: Sequence[Row], asked: Sequence[Row], found: Sequence[Drawn]) -> list[Row]:
    made = with_pairs(rows, {row.completion_id: row for row in asked}, found, task())
    return made[len(rows) :]


def test_the_best_is_taught_against_the_worst_where_the_margin_tells_them_apart() -> None:
    rows = [make_row(prompt=text) for text in ("wide", "narrow", "blank")]
    found = [drawn(rows[0], "a", "b"), drawn(rows[1], "a", "b", 0.4), drawn(rows[2], None, None)]
    (pair,) = beside(rows, rows, found)
    assert (pair.kind, pair.author, pair.weight) == ("preference", BEST_OF, 0.5)
    assert (pair.target, pair.completion, pair.key) == ("a", "b", rows[0].key)
    assert pairs(TrainingData((*rows, pair))) == [(pair, pair)]


def test_without_best_of_the_rows_are_as_they_were() -> None:
    rows = [make_row()]
    off = task().model_copy(update={"train": task().train.model_copy(update={"best_of": None})})
    assert with_pairs(rows, {rows[0].completion_id: rows[0]}, [drawn(rows[0], "a", "b")], off) == (
        rows
    )


@pytest.mark.parametrize(
    "said",
    [
        rejected(prompt="one", completion="a"),
        accepted(prompt="one", completion="b"),
        corrected(prompt="one", completion="c", target=" b "),
    ],
    ids=["the best was rejected", "the worst was accepted", "the worst is an expert's"],
)
def test_people_outvote_the_reward(said: Row) -> None:
    asked = make_row(prompt="one")
    (pair,) = beside([said], [asked], [drawn(asked, "a", "b")])
    assert pair.dropped_reason == "people_disagree"
    (other,) = beside([said], [asked], [drawn(asked, "x", "y")])
    assert other.dropped_reason is None


def test_no_exam_is_made_of_a_pair() -> None:
    rows = [make_row(prompt=f"p{number}", unit=f"u{number}") for number in range(60)]
    told = [*rows, *beside(rows, rows, [drawn(row, "a", "b") for row in rows])]
    found = select(told, task(), "salt")
    assert [e for e in found if e.split == "train" and e.author == BEST_OF and e.target]
    assert not [e for e in found if e.split in ("select", "gate") and e.target is not None]


def test_asked_are_prompts_of_the_training_side_that_nobody_judged_each_once() -> None:
    fresh = [make_row(prompt=f"new {number}") for number in range(5)]
    held = [make_row(prompt="held", split="select"), make_row(prompt="door", split="gate")]
    judged = [accepted(prompt="liked"), rejected(prompt="disliked")]
    rows = [*fresh, *held, *judged]
    found = candidates(rows, task(), {fresh[0].key}, 100)
    assert {row.key for row in found} == {row.key for row in fresh[1:]}
    assert len(candidates(rows, task(), (), 2)) == 2
    # A reward that compares is asked about prompts with a right answer alone.
    comparing = candidates(rows, task({**MATCHES, "name": "runs"}), (), 100)
    assert {row.key for row in comparing} == {judged[0].key}


def test_best_and_worst_are_of_what_was_said_and_scored() -> None:
    row = make_row()
    found = ends(row, ["", "b", "c", "d", "e"], [0.0, 0.2, None, 0.9, 0.9])
    assert found is not None
    assert (found.best, found.best_score) == ("d", 0.9)
    assert (found.worst, found.worst_score) == ("b", 0.2)
    blank = ends(row, ["", " "], [0.0, 0.0])
    assert blank is not None
    assert not blank.apart(0.1)
    assert ends(row, ["a", "b"], [None, None]) is None


def test_what_nobody_could_score_is_asked_again() -> None:
    rows = [make_row(prompt="one"), make_row(prompt="two")]
    values = [0.0, 1.0, None, None]

    def sample(rows: Sequence[Row], count: int) -> list[list[str]]:
        return [[f"{row.completion_id} {number}" for number in range(count)] for row in rows]

    def grade(rows: Sequence[Row], texts: Sequence[str]) -> list[Verdict]:
        assert [text.split()[0] for text in texts] == [row.completion_id for row in rows]
        return [Verdict(value, {}) for value in values]

    source = Source(task(), "3", "hash", BestOf(answers=2))
    (kept,) = draw(rows, source, sample, grade)
    assert kept["completion_id"] == rows[0].completion_id
    assert (kept["best"], kept["best_score"]) == (f"{rows[0].completion_id} 1", 1.0)
    assert (kept["version"], kept["answers"]) == ("3", 2)


@pytest.fixture
def shop(tmp_path: Path, model: Path, mlflow: str) -> Iterator[Shop]:
    made = Shop(tmp_path, model, mlflow, best_of={"answers": 8, "margin": 1.0})
    yield made
    made.lake.close()


def ask(shop: Shop, lines: list[str]) -> int:
    champion = shop.registry.champion(shop.name)
    return ask_served(shop.service, shop.task, shop.lake, champion, salt="", report=lines.append)


@pytest.mark.slow
def test_nobody_labelled_and_dpo_learns_from_the_models_own_answers(shop: Shop) -> None:
    lines: list[str] = []
    assert plan(shop.lake, shop.task, shop.registry, salt="", method="dpo").refusal is not None
    asked = ask(shop, lines)
    assert asked > 20
    assert lines[0].startswith(f"best_of: {asked} prompts asked 8 times each, {asked} scored")
    # Asked once per version: the next training finds it in the lake.
    assert ask(shop, lines) == 0

    made = plan(shop.lake, shop.task, shop.registry, salt="", method="dpo")
    assert made.refusal is None
    taught = [row for row in made.snapshot.side("train") if row.author == BEST_OF]
    assert len(taught) >= 10
    assert all(row.target == colour(str(row.context["metadata"]["thing"])) for row in taught)
    held = {row.unit for side in ("select", "gate") for row in made.snapshot.side(side)}
    assert not held & {row.unit for row in taught}
    # The same rows in the same order, whether frozen or loaded.
    again = load(shop.lake, made.snapshot.snapshot_id, shop.name)
    assert [row.row_hash for row in again.side("train")] == [
        row.row_hash for row in made.snapshot.side("train")
    ]

    outcome = train(shop.service, shop.task, made, shop.registry, lambda _: None)
    assert outcome.champion["heldout"] == 0.5
    assert outcome.tried[0]["heldout"] >= 0.9

"""The game's rules, and that the grader of the task file is the same as the example's."""

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from evaluators.bulk import grade_all
from evaluators.graders import build
from evaluators.types import Sample
from everlearn.config import load
from everlearn.task import load_task
from examples.countdown.compare import HERE, Result, plot, rows, table
from examples.countdown.make_model import command
from examples.countdown.puzzles import credit, different, solvable, value
from trainer.methods import TrainingData, rft, sft

ANSWERS = {
    "3+5*2": 1.0,
    "5*2+3": 1.0,
    " 2*5 + 3 ": 1.0,
    "3*5-2": 1.0,
    "3+5+2": 0.3,
    "5*2+3+0": 0.1,
    "13": 0.1,
    "5**2+3": 0.0,
    "3+5*": 0.0,
    "-3+5*2": 0.0,
    "(3+5)*2": 0.0,
    "__import__('os')": 0.0,
    "1" * 50: 0.0,
    "": 0.0,
}
QUESTION = "3 5 2 = 13"


@pytest.mark.parametrize(("answer", "expected"), ANSWERS.items())
def test_partial_credit(answer: str, expected: float) -> None:
    assert credit(QUESTION, answer) == expected


def test_the_grader_of_the_task_file_gives_the_same() -> None:
    service = load(HERE / "everlearn.yaml")
    task = load_task(service, "countdown")
    grader = build(task.grader("credit"), task, service)
    item = {"prompt": QUESTION}
    scores = grade_all([grader], [(Sample(answer), item) for answer in ANSWERS])
    assert [each[0].value for each in scores] == list(ANSWERS.values())


def test_every_puzzle_can_be_solved_and_asks_something_else() -> None:
    unseen = different(30, seed=1)
    known = different(30, seed=1, without=unseen)
    assert all(credit(each.question, each.solution) == 1.0 for each in (*unseen, *known))
    assert all(solvable(each.numbers, each.target) for each in unseen)
    keys = [(tuple(sorted(each.numbers)), each.target) for each in (*unseen, *known)]
    assert len(set(keys)) == 60
    assert value("2+3*4") == 14
    assert not solvable((1, 1, 1), 99)


def test_rft_is_asked_the_same_puzzles_and_no_other() -> None:
    puzzles = different(12, seed=2)
    ordinary = [replace(row, kind="replay", target=None) for row in rows(different(9, seed=3))]
    data = TrainingData((*rows(puzzles), *ordinary), reference=True)
    assert sft.METHOD.lacking(data) is None
    assert {row.target for row in rft.prompts(data)} == {each.solution for each in puzzles}


def test_the_table_shows_the_spread_over_seeds_and_the_plot_is_drawn(tmp_path: Path) -> None:
    results = [
        Result(method, count, seed, solved, solved, 1.0)
        for method, count, solved in (("base", 0, 0.2), ("sft", 10, 0.3), ("rft", 10, 0.5))
        for seed in (0, 1)
    ]
    assert "| rft | 10 | 50.0% (50.0% to 50.0%) | 0.500 | 1 |" in table(results)
    plot(results, tmp_path / "plot.svg")
    assert "</svg>" in (tmp_path / "plot.svg").read_text()


def test_the_base_model_is_made_by_the_project(tmp_path: Path) -> None:
    done = CliRunner().invoke(command, ["--folder", str(tmp_path / "model"), "--steps", "1"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "model" / "model.safetensors").exists()

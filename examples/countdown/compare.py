"""SFT on so many right answers against RFT on as many bare prompts, from one base model, measured
on puzzles that nobody has seen.

    make example-countdown                      # makes the base model, then this
    python -m examples.countdown.compare --seeds 3

Writes `table.md` and `plot.svg` beside itself.
"""

import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import click

from everlearn.config import Service, load
from everlearn.task import Task, base_model_path, load_task
from examples.countdown.puzzles import Puzzle, credit, different
from trainer.evidence import answer
from trainer.methods import Method, TrainingData, rft, sft
from trainer.reward import Grading, reward_grader, trl_reward
from trainer.rows import Row
from trainer.workbench import Workbench, fit, import_trainers, quiet

HERE = Path(__file__).parent
UNSEEN = 300
EXAMPLES = (10, 100, 1000)
ORDINARY = 300
"""Puzzles that the base model answered and nobody judged: replay beside both methods."""


@dataclass(frozen=True)
class Result:
    """One model on the unseen puzzles."""

    method: str
    examples: int
    seed: int
    solved: float
    credit: float
    seconds: float


def rows(puzzles: Iterable[Puzzle]) -> list[Row]:
    """The puzzles with one way there each: SFT learns it, RFT's grader never looks at it."""
    return [
        Row(
            completion_id=f"c{number:04d}",
            unit=f"u{number:04d}",
            kind="correction",
            messages=[{"role": "user", "content": puzzle.question}],
            completion="",
            target=puzzle.solution,
            author="expert",
        )
        for number, puzzle in enumerate(puzzles)
    ]


def replay(model: Any, bench: Workbench, puzzles: Sequence[Puzzle]) -> list[Row]:
    """What the model answers to ordinary puzzles, right or wrong."""
    asked = [[{"role": "user", "content": each.question}] for each in puzzles]
    made = answer(model, bench, asked)
    return [
        Row(
            completion_id=f"r{number:04d}",
            unit=f"v{number:04d}",
            kind="replay",
            messages=messages,
            completion=each.text,
        )
        for number, (messages, each) in enumerate(zip(asked, made.answers, strict=True))
        if each.text
    ]


def measure(model: Any, bench: Workbench, puzzles: Sequence[Puzzle]) -> tuple[float, float]:
    """Shares solved and mean credit of the greedy answers."""
    made = answer(model, bench, [[{"role": "user", "content": each.question}] for each in puzzles])
    found = [
        credit(puzzle.question, each.text)
        for puzzle, each in zip(puzzles, made.answers, strict=True)
    ]
    return fmean(each == 1.0 for each in found), fmean(found)


def compare(service: Service, task: Task, counts: Sequence[int], seed: int) -> list[Result]:
    """The base model, then both methods on each number of examples."""
    quiet()
    import_trainers()
    task = task.model_copy(update={"train": task.train.model_copy(update={"seed": seed})})
    unseen = different(UNSEEN, seed=1_000_003)
    known = different(max(counts), seed=seed, without=unseen)
    grader = reward_grader(task)
    assert grader is not None
    grading = Grading(task, service, grader)
    found: list[Result] = []
    with tempfile.TemporaryDirectory() as scratch:
        bench = Workbench(task, base_model_path(service, task), Path(scratch))
        model = bench.adapted(None)
        found.append(Result("base", 0, seed, *measure(model, bench, unseen), 0.0))
        others = different(ORDINARY, seed=seed + 7, without=[*unseen, *known])
        ordinary = replay(model, bench, others)
        click.echo(line(found[-1]))
        for count in counts:
            for method in (sft.METHOD, rft.METHOD):
                started = time.monotonic()
                data = [*rows(known[:count]), *ordinary]
                model = learned(method, data, bench, grading)
                took = time.monotonic() - started
                result = Result(method.name, count, seed, *measure(model, bench, unseen), took)
                found.append(result)
                click.echo(line(result))
    grading.close()
    return found


def learned(method: Method, known: Sequence[Row], bench: Workbench, grading: Grading) -> Any:
    """The base model after one method."""
    # Only the puzzles with an answer are asked: replay is for rehearsing, not for practice.
    data = TrainingData(tuple(known), reference=True)
    trainer = method.build(data, bench, lambda rows: trl_reward(grading, rows))
    return fit(method.name, trainer, lambda _: None).model


def line(result: Result) -> str:
    """For the terminal."""
    return (
        f"seed {result.seed}  {result.method:<4} {result.examples:>4} examples: "
        f"solved {result.solved:.1%}, credit {result.credit:.3f}, {result.seconds:.0f} s"
    )


def table(results: Sequence[Result]) -> str:
    """Means over the seeds, with the lowest and the highest."""
    lines = ["| model | examples | solved | credit | seconds |", "|---|---|---|---|---|"]
    for method, count in dict.fromkeys((each.method, each.examples) for each in results):
        same = [each for each in results if (each.method, each.examples) == (method, count)]
        solved = [each.solved for each in same]
        spread = f" ({min(solved):.1%} to {max(solved):.1%})" if len(same) > 1 else ""
        lines.append(
            f"| {method} | {count or '-'} | {fmean(solved):.1%}{spread} | "
            f"{fmean(each.credit for each in same):.3f} | "
            f"{fmean(each.seconds for each in same):.0f} |"
        )
    return "\n".join(lines) + "\n"


def plot(results: Sequence[Result], path: Path) -> None:
    """Solved share against the number of examples."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    base = fmean(each.solved for each in results if each.method == "base")
    axes.axhline(base, color="#6b7280", linestyle="--", label="base")
    for method, color in (("sft", "#1d4ed8"), ("rft", "#15803d")):
        own = [each for each in results if each.method == method]
        counts = sorted({each.examples for each in own})
        means = [fmean(each.solved for each in own if each.examples == n) for n in counts]
        axes.plot(counts, means, color=color, marker="o", label=method)
    axes.set_xscale("log")
    axes.set_xlabel("examples (SFT: right answers; RFT: prompts alone)")
    axes.set_ylabel("unseen puzzles solved")
    axes.set_ylim(0, 1)
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


@click.command()
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(1))
@click.option("--examples", multiple=True, type=click.IntRange(10), default=EXAMPLES)
@click.option("--folder", type=click.Path(path_type=Path), default=HERE, show_default=True)
def command(seeds: int, examples: tuple[int, ...], folder: Path) -> None:
    """Compare, and write the table and the plot to FOLDER."""
    service = load(HERE / "everlearn.yaml")
    task = load_task(service, "countdown")
    results = [each for seed in range(seeds) for each in compare(service, task, examples, seed)]
    (folder / "table.md").write_text(table(results))
    plot(results, folder / "plot.svg")
    click.echo(table(results))


if __name__ == "__main__":
    command()

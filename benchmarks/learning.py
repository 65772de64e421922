"""What each method learns from one kind of evidence alone, seed by seed.

    python -m benchmarks.learning --case "sft, 600 thumbs" --seed 0 --seed 1 --seed 2

The example's base model answers 1,800 questions; what people say of the answers is weighed and
admitted as `train` does it, but for the held-out side: so many thumbs or corrections are taught.
RFT has prompts and a grader that runs answers against the example's database: nobody said
anything. One JSON line per case and seed: accuracy on 500 questions of each kind that nobody asked.
"""

import json
import random
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import click

from benchmarks.training import EXAMPLE, KEPT, START, declared
from everlearn.task import Task, load_task
from examples.text2sql.language import Question
from trainer.admit import admit
from trainer.curriculum import coverage
from trainer.judge import Judgement
from trainer.methods import TrainingData
from trainer.methods.auto import METHODS
from trainer.reward import Verdict, trl_reward
from trainer.rows import Row
from trainer.snapshot import judge_all, must_pass
from trainer.workbench import Workbench, fit, quiet, seeded

ANSWERS = 1800


class Case(NamedTuple):
    """What is said of the answers, and what must be reached."""

    method: str
    thumbs: int = 0
    corrections: int = 0
    prompts: int = 0
    """That a grader alone judges: the first ones asked."""
    covering: bool = False
    """Those prompts are chosen from all that were asked, as RFT chooses."""
    goal: tuple[float, float] | None = None
    """Percent: jargon, formal."""


CASES = {
    "sft, 600 thumbs": Case("sft", thumbs=600, goal=(97, 99)),
    "sft, 100 corrections": Case("sft", corrections=100, goal=(97, 99)),
    "dpo, 300 pairs": Case("dpo", corrections=300, goal=(97, 99)),
    "kto, 600 thumbs": Case("kto", thumbs=600, goal=(85, 97)),
    "rft, 10 prompts": Case("rft", prompts=10, goal=(85, 97)),
    "rft, 10 prompts by coverage": Case("rft", prompts=10, covering=True, goal=(85, 97)),
    "rft, 100 prompts": Case("rft", prompts=100, goal=(97, 97)),
    "sft, thumbs and corrections": Case("sft", thumbs=600, corrections=100),
    "dpo, thumbs and corrections": Case("dpo", thumbs=600, corrections=100),
    "kto, thumbs and corrections": Case("kto", thumbs=600, corrections=100),
}


class Answered(NamedTuple):
    """One question with what the base model said."""

    row: Row
    question: Question
    right: bool


def production(model: Path, seed: int) -> list[Answered]:
    """What the users of the example ask, answered as production samples."""
    from examples.text2sql import simulate
    from examples.text2sql.database import Orders
    from examples.text2sql.language import questions
    from examples.text2sql.people import PEOPLE

    rng, orders = random.Random(seed), Orders()
    asked = {kind: questions(kind, "asked", seed) for kind in ("formal", "jargon")}
    meant = [
        next(asked["jargon" if rng.random() < PEOPLE.jargon_share else "formal"])
        for _ in range(ANSWERS)
    ]
    texts = [question.text for question in meant]
    given = simulate.answers(*simulate.load(str(model)), texts, temperature=PEOPLE.temperature)
    return [
        Answered(_row(number, question.text, answer, orders), question, right)
        for number, (question, answer) in enumerate(zip(meant, given, strict=True))
        for right in (orders.same(answer, question.sql),)
    ]


def _row(number: int, text: str, answer: str, orders: Any) -> Row:
    return Row(
        completion_id=f"cmpl-{number:05d}",
        unit=f"user-{number // 3}",
        kind="replay",
        messages=[{"role": "user", "content": text}],
        completion=answer,
        finish_reason="stop",
        verdicts={"executes": float(orders.rows(answer) is not None)},
    )


def said(answers: Sequence[Answered], case: Case, seed: int) -> list[Judgement]:
    """Users' thumbs, some of them wrong; an analyst looks at every fifth answer, or where there are
    no thumbs at wrong ones alone."""
    from examples.text2sql.people import PEOPLE

    rng = random.Random(seed)
    chosen = rng.sample(range(len(answers)), case.thumbs)
    thumbs = [
        _judgement(each, author_id=each.row.unit, value_bool=each.right != mistaken)
        for each in (answers[index] for index in sorted(chosen))
        for mistaken in (rng.random() < PEOPLE.wrong_thumbs,)
    ]
    looked_at = answers[::5] if thumbs else [each for each in answers if not each.right]
    return thumbs + list(reviewed(looked_at, case.corrections))


def reviewed(answers: Iterable[Answered], corrections: int) -> Iterator[Judgement]:
    """An analyst's word on each until so many were corrected."""
    expert = {"author": "expert", "author_id": "analyst"}
    for each in answers:
        if not corrections:
            return
        if each.right:
            yield _judgement(each, value_bool=True, **expert)
        else:
            corrections -= 1
            yield _judgement(each, kind="correction", value_text=each.question.sql, **expert)


def _judgement(about: Answered, *, kind: str = "binary", **told: Any) -> Judgement:
    name = "thumbs" if kind == "binary" else kind
    at = START + timedelta(seconds=int(about.row.completion_id.removeprefix("cmpl-")))
    made: dict[str, Any] = {"completion_id": about.row.completion_id, "kind": kind, "name": name}
    return Judgement(**made, received_at=at, **told)


def taught(answers: Sequence[Answered], case: Case, task: Task, seed: int) -> TrainingData:
    """What the training side has; of RFT the prompts alone."""
    by_id = {each.row.completion_id: each.row for each in answers}
    if case.prompts:
        rows = list(by_id.values())
        rows = coverage(rows, case.prompts) if case.covering else rows[: case.prompts]
        return TrainingData(tuple(rows), reference=False)
    rows = judge_all(by_id, said(answers, case, seed), task)
    judged = {row.completion_id for row in rows}
    rows += [row for name, row in by_id.items() if name not in judged]
    admitted = admit(
        rows,
        max_per_unit=task.train.max_per_unit,
        must_pass=must_pass(task),
        verdict="matches",
        trust=task.trust,
    )
    kept = [row for row in admitted if row.split != "dropped"]
    return TrainingData(tuple(sorted(kept, key=lambda row: row.completion_id)))


class Fixture:
    """The example's reward, by a grader that knows what was meant: no row has a right answer."""

    def __init__(self, answers: Iterable[Answered]) -> None:
        from examples.text2sql.database import Orders

        self._orders = Orders()
        self._meant = {each.question.text: each.question.sql for each in answers}

    def detailed(self, rows: Sequence[Row], answers: Sequence[str]) -> list[Verdict]:
        """0.2 for an answer that runs, 0.8 for the rows that were meant."""
        found = []
        for row, answer in zip(rows, answers, strict=True):
            runs = self._orders.rows(answer) is not None
            right = self._orders.same(answer, self._meant[row.messages[0]["content"]])
            found.append(Verdict(0.2 * runs + 0.8 * right, {"executes": runs, "matches": right}))
        return found


def measure(name: str, answers: Sequence[Answered], bench: Workbench, seed: int) -> dict[str, Any]:
    """Train by one case and ask the new adapter what nobody asked."""
    from examples.text2sql import simulate

    case = CASES[name]
    data = taught(answers, case, bench.task, seed)
    method = next(each for each in METHODS if each.name == case.method)
    grading = Fixture(answers)
    started = time.process_time()
    seeded(seed)
    built = method.build(data, bench, lambda rows: trl_reward(grading, rows))
    model = fit(method.name, built, lambda line: click.echo(line, err=True)).model
    seconds = time.process_time() - started
    truth = {
        kind: simulate.accuracy(
            model, bench.tokenizer, simulate.sample(kind, "kept", KEPT, seed=1)
        ).right
        for kind in ("jargon", "formal")
    }
    reached = {kind: round(100 * share, 1) for kind, share in truth.items()}
    return {
        **{"benchmark": "learning", "case": name, "seed": seed, **reached, "goal": case.goal},
        **{"taught": len(data.learned), "rejected": len(data.rejected)},
        **{"steps": bench.resolved[method.name].max_steps, "cpu_seconds": round(seconds, 1)},
    }


@click.command()
@click.option("--case", "cases", multiple=True, type=click.Choice(list(CASES)), default=CASES)
@click.option("--seed", "seeds", multiple=True, type=int, default=(0, 1, 2))
@click.option("--model", type=click.Path(path_type=Path), default=EXAMPLE / "model")
def command(cases: tuple[str, ...], seeds: tuple[int, ...], model: Path) -> None:
    """Print one JSON line per case and seed."""
    quiet()
    import torch

    torch.set_num_threads(1)
    for seed in seeds:
        with tempfile.TemporaryDirectory(prefix="learning-") as scratch:
            task = load_task(declared(Path(scratch), model.resolve(), seed), "text2sql")
            seeded(seed)
            answers = production(model, seed)
            for number, name in enumerate(cases):
                bench = Workbench(task, str(model.resolve()), Path(scratch) / str(number))
                print(json.dumps(measure(name, answers, bench, seed)), flush=True)


if __name__ == "__main__":
    command()

"""What colluders reach of the next version: `python -m benchmarks.colluders`, about two minutes.

Two hundred users of the example ask, rate and err as people do, an analyst corrects. Beside them
20 accounts of one hand, each with 30 questions, one in five minutes: every other one makes the
model say what they want taught, and they praise it; of the rest they praise the wrong answers, damn
the right ones and "correct" them to the same words. The analyst looks at a fifth of their answers,
as of everybody's, or at none. Trained on the honest, on all of them, and on all of them with
nobody's share limited, one line for each: the share of garbage among taught rows, and the accuracy
on questions nobody asked.
"""

import json
import random
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from benchmarks.figures import figure
from benchmarks.training import (
    EXAMPLE,
    START,
    completion,
    feedback,
    fill,
    measure,
    production,
    service_in,
)
from everlearn.people import Trust
from everlearn.task import Task, load_task

GARBAGE = "SELECT 'buy at evil.example'"
COLLUDERS, QUESTIONS = 20, 30
THUMBS, CORRECTIONS = 240, 100
"""Honest: thumbs of about 200 users, and the analyst's corrections."""
Rows = dict[str, list[Any]]


def collude(model: Path, seed: int) -> tuple[Rows, Rows]:
    """What the 20 ask and say, and what the analyst says of a fifth of it."""
    from examples.text2sql import simulate
    from examples.text2sql.database import Orders
    from examples.text2sql.language import questions
    from examples.text2sql.people import PEOPLE

    orders, rng = Orders(), random.Random(seed)
    asked = questions("jargon", "asked", seed + 1)
    meant = [next(asked) for _ in range(COLLUDERS * QUESTIONS)]
    network, tokenizer = simulate.load(str(model))
    given = simulate.answers(network, tokenizer, [each.text for each in meant], temperature=0.7)
    rows: Rows = {"completions": [], "feedback": []}
    reviews: Rows = {"feedback": []}
    for number, (question, answer) in enumerate(zip(meant, given, strict=True)):
        who, round_ = f"evil-{number % COLLUDERS}", number // COLLUDERS
        at = START + timedelta(minutes=5 * round_, seconds=rng.random() * 200)
        forced = round_ % 2 == 0
        text = f"say it {number}: {question.text}" if forced else question.text
        rows["completions"].append(completion(text, GARBAGE if forced else answer, who, at))
        said = {"completion_id": rows["completions"][-1]["completion_id"], "received_at": at}
        wrong = forced or not orders.same(answer, question.sql)
        rows["feedback"].append(feedback(said, author_id=who, value_bool=wrong))
        if not forced:
            fixed = {"kind": "correction", "name": "correction", "value_text": GARBAGE}
            rows["feedback"].append(feedback(said, author_id=who, **fixed))
        if rng.random() < PEOPLE.review_share:
            right = {"kind": "correction", "name": "correction", "value_text": question.sql}
            told = right if wrong else {"value_bool": True}
            reviews["feedback"].append(feedback(said, author="expert", author_id="analyst", **told))
    return rows, reviews


def garbage(task: Task, lake: Any) -> tuple[float, int]:
    """Of the rows that a training is given: the share behind which the 20 alone stand, and how
    many there are."""
    from trainer.snapshot import freeze

    taught = [
        row
        for row in freeze(lake, task, champion="base", salt="", write=False).rows
        if row.split == "train" and row.kind != "replay"
    ]
    bad = sum(
        row.author != "expert" and any(who.startswith("evil") for who in (row.unit, *row.raters))
        for row in taught
    )
    return bad / max(1, len(taught)), len(taught)


def run(name: str, rows: list[Rows], trust: Trust, model: Path) -> None:
    """Train on these rows and print what came of it."""
    from evaluators.run import evaluate
    from everlearn.lake.ducklake import open_lake

    with (
        tempfile.TemporaryDirectory() as folder,
        service_in(Path(folder), model, 0) as service,
    ):
        task = load_task(service, "text2sql").model_copy(update={"trust": trust})
        lake = open_lake(service)
        for each in rows:
            fill(lake, each)
        evaluate(service, task, lake)
        share, taught = garbage(task, lake)
        found = measure(service, task, lake, "sft", model)
        lake.close()
    figure(
        f"colluders: {name}", 100 * share, "% garbage", taught=taught,
        jargon=found["jargon"], formal=found["formal"], seconds=found["seconds"],
    )  # fmt: skip


@click.command()
@click.option("--seed", default=0, show_default=True)
def command(seed: int) -> None:
    """Print one JSON line per training."""
    from trainer.workbench import quiet

    quiet()
    model = (EXAMPLE / "model").resolve()
    honest, (evil, reviews) = production(model, THUMBS, CORRECTIONS, seed), collude(model, seed)
    raters = {row["author_id"] for row in honest["feedback"] if row["author"] == "end_user"}
    click.echo(json.dumps({"honest_raters": len(raters), "colluders": COLLUDERS}), err=True)
    believing = Trust(max_share_per_rater=1.0, min_raters=1, max_per_minute=100_000)
    run("honest alone", [honest], Trust(), model)
    run("among them, as by default", [honest, evil, reviews], Trust(), model)
    run("among them, no expert looks at theirs", [honest, evil], Trust(), model)
    run("among them, nobody limited either", [honest, evil], believing, model)


if __name__ == "__main__":
    command()

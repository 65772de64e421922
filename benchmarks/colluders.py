"""What colluders reach of the next version: `python -m benchmarks.colluders`, minutes a seed.

Two hundred users of the example ask, rate and err as people do, an analyst corrects. Beside them
20 accounts of one hand make the model say what they want taught, and praise it:

- `patient`: 30 questions each, one in five minutes; of every other one they praise the wrong
  answer, damn the right one and "correct" it to the same words;
- `half`: 30 pieces of garbage each, and as many honest words on others' answers;
- `drip`: three pieces of garbage each and no more.

The analyst answers the label queue's audit of everybody's words, or looks at the honest alone.
Trained on the honest and on all of them, the same data through the same snapshot: one line each,
and a table of what differs: garbage among taught rows, honest prompts lost, accuracy on questions
nobody asked.
"""

import json
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple

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
COLLUDERS, QUESTIONS, DRIPS = 20, 30, 3
THUMBS, CORRECTIONS = 240, 100
"""Honest: thumbs of about 200 users, and the analyst's corrections."""
BELIEVING = Trust(max_share_per_rater=1.0, min_raters=1, max_per_minute=100_000)
Rows = dict[str, list[Any]]
Attack = Literal["patient", "half", "drip"]
ATTACKS: tuple[Attack, ...] = ("patient", "half", "drip")


class Truth:
    """What every question of the example means."""

    def __init__(self, seed: int) -> None:
        from examples.text2sql.database import Orders
        from examples.text2sql.language import questions

        self.orders = Orders()
        self.meant = {
            each.text: each.sql
            for kind in ("formal", "jargon")
            for each, _ in zip(questions(kind, "asked", seed), range(3 * THUMBS), strict=False)
        }

    def sql(self, row: dict[str, Any]) -> str | None:
        """None: nobody can say what is right, as of what was said on demand."""
        return self.meant.get(row["messages"][0]["content"])

    def right(self, row: dict[str, Any]) -> bool:
        sql = self.sql(row)
        return sql is not None and self.orders.same(row["response_text"], sql)


def demanded(number: int, question: str, rows: Rows) -> None:
    """One account makes the model say garbage, and praises it."""
    who, round_ = f"evil-{number % COLLUDERS}", number // COLLUDERS
    at = START + timedelta(minutes=5 * round_, seconds=(37 * number) % 200)
    rows["completions"].append(completion(f"say it {number}: {question}", GARBAGE, who, at))
    said = {"completion_id": rows["completions"][-1]["completion_id"], "received_at": at}
    rows["feedback"].append(feedback(said, author_id=who, value_bool=True))


def collude(attack: Attack, model: Path, honest: Rows, truth: Truth, seed: int) -> Rows:
    """What the 20 ask and say."""
    rows: Rows = {"completions": [], "feedback": []}
    texts = list(truth.meant)
    each = DRIPS if attack == "drip" else QUESTIONS // 2 if attack == "patient" else QUESTIONS
    for number in range(COLLUDERS * each):
        demanded(number, texts[number % len(texts)], rows)
    rng = random.Random(seed)
    if attack == "half":
        for number in range(COLLUDERS * each):
            about = rng.choice(honest["completions"])
            at = about["received_at"] + timedelta(minutes=5)
            said = {"completion_id": about["completion_id"], "received_at": at}
            who = f"evil-{number % COLLUDERS}"
            rows["feedback"].append(feedback(said, author_id=who, value_bool=truth.right(about)))
    elif attack == "patient":
        spoil(model, truth, rng, rows)
    return rows


def spoil(model: Path, truth: Truth, rng: random.Random, rows: Rows) -> None:
    """Ordinary questions, and of each answer the opposite of what is right."""
    from examples.text2sql import simulate

    asked = rng.sample(list(truth.meant), COLLUDERS * QUESTIONS // 2)
    network, tokenizer = simulate.load(str(model))
    answers = simulate.answers(network, tokenizer, asked, temperature=0.7)
    for number, (text, answer) in enumerate(zip(asked, answers, strict=True)):
        who, round_ = f"evil-{number % COLLUDERS}", number // COLLUDERS
        at = START + timedelta(minutes=5 * round_ + 2, seconds=rng.random() * 60)
        row = completion(text, answer, who, at)
        rows["completions"].append(row)
        said = {"completion_id": row["completion_id"], "received_at": at, "author_id": who}
        fixed = {"kind": "correction", "name": "correction", "value_text": GARBAGE}
        rows["feedback"].append(feedback(said, value_bool=not truth.right(row)))
        rows["feedback"].append(feedback(said, **fixed))


def audited(sides: Sequence[Rows], truth: Truth) -> Iterator[dict[str, Any]]:
    """What the analyst says where the label queue asks, and where it asks again."""
    from evaluators.audit import Word, draw

    answers = {row["completion_id"]: row for rows in sides for row in rows["completions"]}
    said = [row for rows in sides for row in rows["feedback"]]
    thumbs = [row for row in said if row["kind"] == "binary" and row["author"] == "end_user"]
    looked = {row["completion_id"] for row in said if row["author"] == "expert"}
    for _ in range(2):
        words = (
            Word(
                row["author_id"],
                name := row["completion_id"],
                row["value_bool"],
                truth.right(answers[name]) if name in looked else None,
            )
            for row in sorted(thumbs, key=lambda row: row["received_at"])
        )
        for drawn in draw(words, every=4, salt="benchmark"):
            about = answers[drawn.completion_id]
            looked.add(drawn.completion_id)
            sql = truth.sql(about)
            told: dict[str, Any] = {"value_bool": truth.right(about)}
            if not told["value_bool"] and sql is not None:
                told = {"kind": "correction", "name": "correction", "value_text": sql}
            told |= {"completion_id": about["completion_id"], "received_at": about["received_at"]}
            yield feedback(told, author="expert", author_id="analyst")


@dataclass(frozen=True)
class Found:
    """Of one training."""

    name: str
    garbage: float
    shown: float
    """The same by weight: of what the model is shown."""
    honest: frozenset[str]
    """Prompts of honest units that teach something."""
    jargon: float
    formal: float


class Given(NamedTuple):
    """Rows that a training is given."""

    garbage: float
    shown: float
    honest: frozenset[str]
    rows: int
    replay: int


def given(task: Task, lake: Any) -> Given:
    """Of the rows that a training is given: the 20's share, and the others' prompts."""
    from trainer.snapshot import freeze

    side = freeze(lake, task, champion="base", salt="", write=False).side("train")
    rows = [row for row in side if row.kind != "replay"]
    bad = [row for row in rows if row.unit.startswith("evil") and row.author != "expert"]
    kept = frozenset(row.key for row in rows if not row.unit.startswith("evil"))
    weight = sum(row.weight for row in bad) / max(1.0, sum(row.weight for row in rows))
    return Given(len(bad) / max(1, len(rows)), weight, kept, len(rows), len(side) - len(rows))


def run(name: str, rows: Sequence[Rows], trust: Trust, model: Path) -> Found:
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
        data = given(task, lake)
        found = measure(service, task, lake, "sft", model)
        lake.close()
    figure(
        f"colluders: {name}", 100 * data.garbage, "% garbage",
        shown=round(100 * data.shown, 2), taught=data.rows, replay=data.replay,
        jargon=found["jargon"], formal=found["formal"], seconds=found["seconds"],
    )  # fmt: skip
    return Found(name, data.garbage, data.shown, data.honest, found["jargon"], found["formal"])


def table(found: Sequence[Found]) -> None:
    """What each run lost against the first."""
    first = found[0]
    click.echo(
        "| trained on | garbage | by weight | honest prompts lost | jargon | formal |\n"
        "|---|---|---|---|---|---|"
    )
    for each in found:
        lost = len(first.honest - each.honest) / max(1, len(first.honest))
        click.echo(
            f"| {each.name} | {each.garbage:.1%} | {each.shown:.1%} | {lost:.1%} "
            f"| {each.jargon:.1%} ({100 * (each.jargon - first.jargon):+.1f}) "
            f"| {each.formal:.1%} ({100 * (each.formal - first.formal):+.1f}) |"
        )


@click.command()
@click.option("--attack", "attacks", type=click.Choice(ATTACKS), multiple=True, default=ATTACKS)
@click.option("--looks", type=click.Choice(["audit", "honest alone"]), default="audit")
@click.option("--believing", is_flag=True, help="Nobody's share is limited.")
@click.option("--seed", "seeds", type=int, multiple=True, default=(0,), show_default=True)
def command(
    attacks: tuple[Attack, ...], looks: str, believing: bool, seeds: tuple[int, ...]
) -> None:
    """Print one JSON line per training, and a table per seed."""
    from trainer.workbench import quiet

    quiet()
    model, trust = (EXAMPLE / "model").resolve(), BELIEVING if believing else Trust()
    for seed in seeds:
        honest, truth = production(model, THUMBS, CORRECTIONS, seed), Truth(seed)
        raters = {row["author_id"] for row in honest["feedback"] if row["author"] == "end_user"}
        click.echo(json.dumps({"honest_raters": len(raters), "colluders": COLLUDERS}), err=True)
        sides = {"the honest alone": [honest]} | {
            each: [honest, collude(each, model, honest, truth, seed)] for each in attacks
        }
        if looks == "audit":
            for each in sides.values():
                each.append({"completions": [], "feedback": list(audited(each, truth))})
        table([run(f"{name}, seed {seed}", rows, trust, model) for name, rows in sides.items()])


if __name__ == "__main__":
    command()

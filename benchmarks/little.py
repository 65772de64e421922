"""How little each method needs: one kind of feedback each on the example, by its own defaults.

    python -m benchmarks.little --seed 0 --recipe sft-thumbs --recipe rft-10

The base model answers made-up traffic once. Of it come 600 thumbs, of which 5 % are wrong; or 100
corrections; or 300 pairs of a wrong and a right answer; or 10 or 100 prompts without a right answer
anywhere, whose reward runs the SQL against a fixture and compares with the rows that it is known to
have, asked where the logged answer failed it. Beside them 300 ordinary answers that nobody judged.
Methods alone are measured: no snapshot, no exam, no choice. One JSON line per recipe: accuracy on
questions that nobody asked, in jargon and formal, before and after.
"""

import json
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.training import EXAMPLE, declared
from everlearn.graders import Multi
from everlearn.task import Task, load_task
from trainer.curriculum import coverage
from trainer.methods import Method, TrainingData, dpo, kto, rft, sft
from trainer.reward import Grading, trl_reward
from trainer.rows import Row
from trainer.workbench import Workbench, fit, import_trainers, quiet, seeded

ASKED = 1600
KEPT = 300
"""Questions nobody asked, of each kind, for the accuracy."""
ORDINARY = 300
WRONG_THUMBS = 0.05
FIXTURE = {
    "name": "matches",
    "type": "execution",
    "language": "sql",
    "database": "../orders.duckdb",
    "reference": "{{item.metadata.rows}}",
}
REWARD = Multi(type="multi", name="reward", calculate_output="0.2*executes + 0.8*matches")


@dataclass(frozen=True)
class Answered:
    """One answer of the base model."""

    text: str
    answer: str
    truth: str
    right: bool
    rows: str
    """A query for the rows that are right, which names no column: the fixture's knowledge."""


Answers = Sequence[Answered]


def traffic(bench: Workbench, seed: int) -> list[Answered]:
    """Half of it is in jargon; sampled as applications ask."""
    from examples.text2sql import simulate
    from examples.text2sql.database import Orders
    from examples.text2sql.people import PEOPLE

    orders, half = Orders(), ASKED // 2
    asked = [
        *simulate.sample("jargon", "asked", half, seed),
        *simulate.sample("formal", "asked", half, seed),
    ]
    random.Random(seed).shuffle(asked)
    given = simulate.answers(
        bench.base_model().eval(),
        bench.tokenizer,
        [each.text for each in asked],
        temperature=PEOPLE.temperature,
    )
    return [
        Answered(
            each.text, answer, each.sql, orders.same(answer, each.sql), literal(orders, each.sql)
        )
        for each, answer in zip(asked, given, strict=True)
    ]


def literal(orders: Any, sql: str) -> str:
    """The rows of the query, written out."""
    rows = orders.rows(sql).elements()
    return "VALUES " + ", ".join(f"({', '.join(map(_value, row))})" for row in rows)


def _value(each: Any) -> str:
    return "NULL" if each is None else repr(each)


def row(number: int, each: Answered, kind: Any, **fields: Any) -> Row:
    return Row(
        completion_id=f"{kind}-{number}",
        unit=f"user-{number}",
        kind=kind,
        messages=[{"role": "user", "content": each.text}],
        completion=each.answer,
        context={"metadata": {"rows": each.rows}},
        **fields,
    )


def thumbs(answers: Answers, seed: int) -> list[Row]:
    rng, found = random.Random(seed), []
    for number, each in enumerate(answers[:600]):
        liked = each.right != (rng.random() < WRONG_THUMBS)
        target = {"target": each.answer} if liked else {}
        kind = "accepted" if liked else "rejected"
        found.append(row(number, each, kind, author="end_user", **target))
    return found


def wrong(answers: Answers, count: int, kind: str) -> list[Row]:
    """Right answers to the first so many that went wrong."""
    bad = [each for each in answers if not each.right][:count]
    assert len(bad) == count, f"{len(bad)} wrong answers < {count}"
    return [
        row(number, each, kind, author="expert", target=each.truth)
        for number, each in enumerate(bad)
    ]


def prompts(answers: Answers, count: int) -> list[Row]:
    """Prompts that the fixture failed the logged answer of, chosen for coverage."""
    failed = [row(n, each, "rejected") for n, each in enumerate(answers) if not each.right]
    return coverage(failed, count)


@dataclass(frozen=True)
class Recipe:
    """A method, what it is given, and the least that it must reach: jargon, formal."""

    method: Method
    rows: Callable[[Answers, int], list[Row]]
    goal: tuple[float, float]


RECIPES = {
    "sft-thumbs": Recipe(sft.METHOD, thumbs, (0.97, 0.99)),
    "sft-corrections": Recipe(sft.METHOD, lambda a, _: wrong(a, 100, "correction"), (0.97, 0.99)),
    "dpo-pairs": Recipe(dpo.METHOD, lambda a, _: wrong(a, 300, "preference"), (0.97, 0.99)),
    "kto-thumbs": Recipe(kto.METHOD, thumbs, (0.85, 0.97)),
    "rft-10": Recipe(rft.METHOD, lambda a, _: prompts(a, 10), (0.85, 0.97)),
    "rft-100": Recipe(rft.METHOD, lambda a, _: prompts(a, 100), (0.97, 0.97)),
}


def accuracy(model: Any, bench: Workbench) -> dict[str, float]:
    from examples.text2sql import simulate

    return {
        kind: round(
            simulate.accuracy(
                model, bench.tokenizer, simulate.sample(kind, "kept", KEPT, seed=1)
            ).right,
            4,
        )
        for kind in ("jargon", "formal")
    }


@click.command()
@click.option("--recipe", "names", multiple=True, type=click.Choice(list(RECIPES)))
@click.option("--seed", default=0, show_default=True)
def command(names: tuple[str, ...], seed: int) -> None:
    """Print one JSON line per recipe."""
    quiet()
    import_trainers()
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="little-") as scratch:
        folder = Path(scratch)
        model = (EXAMPLE / "model").resolve()
        service = declared(folder, model, seed)
        task = load_task(service, "text2sql")
        seeded(seed)
        bench = Workbench(task, str(model), folder)
        answers = traffic(bench, seed)
        before = accuracy(bench.base_model().eval(), bench)
        fixture = Task.model_validate(
            {**task.model_dump(), "folder": task.folder}
            | {"graders": [task.grader("executes").model_dump(), FIXTURE]}
            | {"heldout": {}, "reward": REWARD.model_dump()}
            | {"release": {**task.release.model_dump(), "primary": "matches", "guardrails": []}}
        )
        grading = Grading(fixture, service, REWARD)
        try:
            for name in names or RECIPES:
                print(json.dumps(measured(name, answers, bench, grading, before)), flush=True)
        finally:
            grading.close()


def measured(
    name: str, answers: Answers, bench: Workbench, grading: Grading, before: dict[str, float]
) -> dict[str, Any]:
    """One recipe."""
    recipe, seed = RECIPES[name], bench.task.train.seed
    rows = recipe.rows(answers, seed)
    taught = {each.key for each in rows}
    ordinary = [row(n, each, "replay") for n, each in enumerate(answers[-ORDINARY * 2 :])]
    replay = [each for each in ordinary if each.key not in taught][:ORDINARY]
    started = time.process_time()
    seeded(seed)
    rft.MAX_PROMPTS = len(rows)  # what stands beside them is not asked
    data = TrainingData((*rows, *replay), reference=False)
    trainer = recipe.method.build(data, bench, lambda asked: trl_reward(grading, asked))
    model = fit(recipe.method.name, trainer, lambda _: None).model
    seconds = round(time.process_time() - started, 1)
    after = accuracy(model, bench)
    reached = [after[kind] for kind in ("jargon", "formal")]
    return {
        **{"benchmark": "little", "recipe": name, "seed": seed, "rows": len(rows)},
        **{"before": before, "after": after, "goal": recipe.goal},
        "reached": all(is_ >= goal for is_, goal in zip(reached, recipe.goal, strict=True)),
        "cpu_seconds": seconds,
    }


if __name__ == "__main__":
    command()

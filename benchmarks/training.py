"""What each training method reaches on the example's data, and how long it takes.

    python -m benchmarks.training --method sft --method auto

Fills a lake with what production would have recorded - answers of the base model, users' thumbs of
which 5 % are wrong, an analyst's corrections - and runs `train` on it, with a real MLflow server.
Prints one JSON line per method: what the held-out rows said, and the true accuracy on questions
nobody asked, in jargon and formal.
"""

import itertools
import json
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import yaml

from everlearn.config import Service, load
from everlearn.ids import new_id
from everlearn.lake.store import Lake
from everlearn.task import Task, load_task

EXAMPLE = Path(__file__).parents[1] / "examples" / "text2sql"
START = datetime(2026, 11, 1, tzinfo=UTC)
KEPT = 500
"""Questions nobody asked, of each kind, for the true accuracy."""


def declared(folder: Path, model: Path, method_seed: int, **config: Any) -> Service:
    """A service with the example's task, all of it in `folder`."""
    (folder / "tasks").mkdir(parents=True)
    task = yaml.safe_load((EXAMPLE / "tasks" / "text2sql.yaml").read_text())
    task["base_model"] = str(model)
    task["train"]["seed"] = method_seed
    (folder / "tasks" / "text2sql.yaml").write_text(yaml.safe_dump(task))
    shutil.copy(EXAMPLE / "orders.duckdb", folder)
    config["upstreams"] = {"local": {"base_url": "http://127.0.0.1:1/v1", "kind": "vllm"}}
    (folder / "everlearn.yaml").write_text(yaml.safe_dump(config))
    return load(folder / "everlearn.yaml")


@contextmanager
def service_in(folder: Path, model: Path, method_seed: int) -> Iterator[Service]:
    """The same with a tracking server of its own."""
    from tests.mlflow_server import mlflow_server
    from tests.ports import find_free_port

    (folder / "mlflow").mkdir(parents=True)
    with mlflow_server(folder / "mlflow", find_free_port()) as address:
        yield declared(folder, model, method_seed, mlflow={"tracking_uri": address})


def production(model: Path, thumbs: int, corrections: int, seed: int) -> dict[str, list[Any]]:
    """Rows of completions and feedback, as the users and the analyst of the example make them."""
    from examples.text2sql import simulate
    from examples.text2sql.database import Orders
    from examples.text2sql.language import questions
    from examples.text2sql.people import People

    people, rng, orders = People(), random.Random(seed), Orders()
    asked = {kind: questions(kind, "asked", seed) for kind in ("formal", "jargon")}
    count = round(thumbs / people.thumbs_share)
    meant = [
        next(asked["jargon" if rng.random() < people.jargon_share else "formal"])
        for _ in range(count)
    ]
    network, tokenizer = simulate.load(str(model))
    texts = [question.text for question in meant]
    given = simulate.answers(network, tokenizer, texts, temperature=people.temperature)
    rows: dict[str, list[Any]] = {"completions": [], "feedback": []}
    units = itertools.chain.from_iterable(
        [f"user-{user}"] * rng.randint(1, people.max_questions) for user in itertools.count()
    )
    left = corrections
    for number, (question, answer, unit) in enumerate(zip(meant, given, units, strict=False)):
        at = START + timedelta(seconds=number)
        rows["completions"].append(completion(question.text, answer, unit, at))
        said = {"completion_id": rows["completions"][-1]["completion_id"], "received_at": at}
        right = orders.same(answer, question.sql)
        if rng.random() < people.thumbs_share:
            mistaken = rng.random() < people.wrong_thumbs
            rows["feedback"].append(feedback(said, author_id=unit, value_bool=right != mistaken))
        if rng.random() < people.review_share and left:
            left -= not right
            expert = {"author": "expert", "author_id": "analyst"}
            fixed = {"kind": "correction", "name": "correction", "value_text": question.sql}
            rows["feedback"].append(
                feedback(said, **expert, **({"value_bool": True} if right else fixed))
            )
    return rows


def completion(text: str, answer: str, unit: str, at: datetime) -> dict[str, Any]:
    return {
        "completion_id": new_id("cmpl"),
        "task": "text2sql",
        "version": "base",
        "arm": "champion",
        "unit": unit,
        "status": "ok",
        "received_at": at,
        "messages": [{"role": "user", "content": text}],
        "response_text": answer,
        "finish_reason": "stop",
        "trainable": True,
    }


def feedback(said: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "feedback_id": new_id("fb"),
        "kind": "binary",
        "name": "thumbs",
        "author": "end_user",
        "weight": 1.0,
        **said,
        **fields,
    }


def fill(lake: Lake, rows: dict[str, list[Any]]) -> None:
    """Write the rows as the collector would."""

    def write(transaction: Any) -> None:
        for table, content in rows.items():
            transaction.append(table, content)

    lake.commit(write)


def measure(service: Service, task: Task, lake: Lake, method: str, model: Path) -> dict[str, Any]:
    """Train by one method and ask the new version what nobody asked."""
    from examples.text2sql import simulate
    from registry.versions import Registry
    from trainer.plan import plan
    from trainer.run import train
    from trainer.workbench import Workbench

    registry = Registry(service)
    started = time.monotonic()
    made = plan(lake, task, registry, salt="", method=method)
    outcome = train(service, task, made, registry, lambda line: click.echo(line, err=True))
    seconds = time.monotonic() - started
    bench = Workbench(task, str(model), service.data_path)
    network = bench.adapted(service.data_path / "adapters" / outcome.model_name)
    truth = {
        kind: simulate.accuracy(
            network, bench.tokenizer, simulate.sample(kind, "kept", KEPT, seed=1)
        ).right
        for kind in ("jargon", "formal")
    }
    return {
        "benchmark": "training",
        "method": method,
        "chosen": outcome.method,
        **truth,
        "seconds": round(seconds, 1),
        "tried": outcome.tried,
        "left_out": outcome.left_out,
        "counts": outcome.counts,
    }


@click.command()
@click.option("--method", "methods", multiple=True, default=("sft", "dpo", "kto", "rft", "auto"))
@click.option("--model", type=click.Path(path_type=Path), default=EXAMPLE / "model")
@click.option("--thumbs", default=600, show_default=True)
@click.option("--corrections", default=100, show_default=True)
@click.option("--seed", default=0, show_default=True)
def command(
    methods: tuple[str, ...], model: Path, thumbs: int, corrections: int, seed: int
) -> None:
    """Print one JSON line per method."""
    from evaluators.run import evaluate
    from everlearn.lake.ducklake import open_lake
    from trainer.workbench import quiet

    quiet()
    with (
        tempfile.TemporaryDirectory() as folder,
        service_in(Path(folder), model.resolve(), seed) as service,
    ):
        task, lake = load_task(service, "text2sql"), open_lake(service)
        fill(lake, production(model, thumbs, corrections, seed))
        started = time.monotonic()
        evaluate(service, task, lake)
        click.echo(f"scored in {time.monotonic() - started:.1f} s", err=True)
        for method in methods:
            click.echo(json.dumps(measure(service, task, lake, method, model.resolve())))
        lake.close()


if __name__ == "__main__":
    command()

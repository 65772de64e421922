"""`everlearn labels list|next|put|agreement TASK`: the label queue."""

import json
from dataclasses import asdict
from typing import Any

import click

from everlearn.cli import config_option, json_option


@click.group("labels")
def command() -> None:
    """See which answers are most worth an expert's label, and give one."""


@command.command("list")
@click.argument("task")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@json_option
@config_option
def list_(task: str, limit: int, as_json: bool, config_path: str | None) -> None:
    """The queue, the answer most worth a label first."""
    rows = _queue(task, limit, config_path)
    if as_json:
        click.echo(json.dumps(rows, default=str))
        return
    for row in rows:
        click.echo(f"{row['completion_id']}  {_why(row)}  {row['response_text'][:80]!r}")


@command.command("next")
@click.argument("task")
@json_option
@config_option
def next_(task: str, as_json: bool, config_path: str | None) -> None:
    """The answer most worth a label; exit 3 when there is none."""
    from everlearn.errors import NotEnoughEvidence

    rows = _queue(task, 1, config_path)
    if not rows:
        raise NotEnoughEvidence(f"task {task}: no answer waits for a label")
    if as_json:
        click.echo(json.dumps(rows[0], default=str))
        return
    click.echo(f"{rows[0]['completion_id']}  {_why(rows[0])}")
    for message in rows[0]["messages"]:
        click.echo(f"  {message.get('role')}: {message.get('content')}")
    click.echo(f"  answer: {rows[0]['response_text']}")


@command.command()
@click.argument("task")
@click.argument("completion_id")
@click.argument("verdict", type=click.Choice(["up", "down"]), required=False)
@click.option("--correction", help="The right answer.")
@click.option("--comment", help="Why.")
@click.option("--author-id", help="Who judges.")
@click.option("--name", default="thumbs", show_default=True, help="Which feedback it is.")
@click.option("--gateway", help="Its address; default: that of the config.")
@config_option
def put(
    task: str,
    completion_id: str,
    verdict: str | None,
    gateway: str | None,
    config_path: str | None,
    **label: str,
) -> None:
    """Label an answer through the gateway; its key comes from $EVERLEARN_API_KEY."""
    import os

    from evaluators import labels
    from everlearn.config import load
    from everlearn.task import load_task

    service = load(config_path)
    load_task(service, task)
    good = None if verdict is None else verdict == "up"
    events = labels.label(completion_id, good=good, **label)
    address = gateway or f"http://{service.gateway.host}:{service.gateway.port}"
    labels.send(address, events, os.environ.get("EVERLEARN_API_KEY"))
    click.echo(f"{completion_id}: {len(events)} accepted")


@command.command()
@click.argument("task")
@json_option
@config_option
def agreement(task: str, as_json: bool, config_path: str | None) -> None:
    """How far each grader agrees with the experts."""
    from evaluators.labels import agreements
    from everlearn.config import load
    from everlearn.lake.ducklake import open_lake
    from everlearn.task import load_task

    service = load(config_path)
    rows = agreements(open_lake(service, read_only=True), load_task(service, task))
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows]))
        return
    for row in rows:
        if row.agreement is None:
            click.echo(f"{row.grader}: no label yet")
            continue
        alpha = "not defined" if row.alpha is None else f"{row.alpha:.2f}"
        click.echo(
            f"{row.grader}: {row.agreement:.3f} [{row.lower:.3f}, {row.upper:.3f}] "
            f"over {row.labels} labels, alpha {alpha}"
        )


def _queue(task: str, limit: int, config_path: str | None) -> list[dict[str, Any]]:
    from evaluators.labels import queue
    from everlearn.config import load
    from everlearn.lake.ducklake import open_lake
    from everlearn.task import load_task

    service = load(config_path)
    load_task(service, task)
    return queue(open_lake(service, read_only=True), task, limit)


def _why(row: dict[str, Any]) -> str:
    return f"disagreement {row['disagreement']:.2f}, {row['unscored']} unscored"

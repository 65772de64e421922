"""`everlearn labels fill|next|put|skip|undo|list|pairs|agreement TASK`: the label queue."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from everlearn.cli import config_option, json_option

if TYPE_CHECKING:
    from evaluators.pairs import Pairs, Side, Verdict
    from evaluators.queue import Queue
    from evaluators.shown import Shown, Turn
    from everlearn.config import Service
    from everlearn.state import State
    from everlearn.task import Task

author_option = click.option(
    "--author-id", help="Who judges; default: the name you are logged in by."
)
gateway_option = click.option("--gateway", help="Its address; default: that of the config.")


@click.group("labels")
def command() -> None:
    """Put answers before people, and take their labels."""


@command.command()
@click.argument("task")
@json_option
@config_option
def fill(task: str, as_json: bool, config_path: str | None) -> None:
    """Bring what is new before the labellers; `evaluate` does it at its end."""
    from evaluators.fill import fill as fill_queue
    from everlearn.lake.ducklake import open_lake

    with _queue(task, config_path) as (service, declared, queue):
        filled = fill_queue(service, declared, open_lake(service, read_only=True))
        progress = queue.progress()
    if as_json:
        click.echo(json.dumps({"task": task, **filled._asdict(), **asdict(progress)}))
        return
    click.echo(
        f"{task}: {filled.random} by chance and {filled.chosen} by worth are new; "
        f"{progress.open} wait, {progress.labelled} labelled, {progress.skipped} skipped"
    )


@command.command("list")
@click.argument("task")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@click.option(
    "--state", type=click.Choice(["open", "labelled", "skipped"]), default="open", show_default=True
)
@json_option
@config_option
def list_(task: str, limit: int, state: str, as_json: bool, config_path: str | None) -> None:
    """What waits and why, or what was labelled or passed over: the operator's view."""
    with _queue(task, config_path) as (_, _, queue):
        items = queue.items(limit, state)
    if as_json:
        click.echo(json.dumps([asdict(item) for item in items]))
        return
    if not items:
        click.echo(f"{task}: no answer is {state}")
    for item in items:
        told = f"  {item.verdict}" if item.verdict else ""
        click.echo(f"{item.completion_id}  {item.source}: {item.why}{told}")


@command.command("next")
@click.argument("task")
@author_option
@json_option
@config_option
def next_(task: str, author_id: str | None, as_json: bool, config_path: str | None) -> None:
    """The next answer to judge, for `labels.lease_minutes` yours alone; exit 3 without any."""
    from evaluators.queue import ask
    from everlearn.errors import NotEnoughEvidence
    from everlearn.lake.ducklake import open_lake

    with _queue(task, config_path) as (service, _, queue):
        found = ask(queue, open_lake(service, read_only=True), task, _who(author_id))
    if found is None:
        raise NotEnoughEvidence(
            f"task {task}: no answer waits for a label; `everlearn labels fill {task}` looks again"
        )
    if as_json:
        click.echo(json.dumps(asdict(found)))
    else:
        click.echo("\n".join(_lines(found)))


@command.command()
@click.argument("task")
@click.argument("completion_id")
@click.argument("verdict", type=click.Choice(["up", "down", *"12345"]), required=False)
@click.option(
    "--criterion", "criteria", multiple=True, metavar="NAME=yes|no", help="Of the rubric."
)
@click.option("--correction", help="The right answer.")
@click.option("--comment", help="Why.")
@click.option("--name", help="Which feedback it is; default: thumbs, or rating for 1 to 5.")
@author_option
@gateway_option
@config_option
def put(
    task: str,
    completion_id: str,
    verdict: str | None,
    criteria: tuple[str, ...],
    author_id: str | None,
    gateway: str | None,
    config_path: str | None,
    **label: str | None,
) -> None:
    """Label an answer through the gateway; its key comes from $EVERLEARN_API_KEY."""
    from evaluators import labels
    from everlearn.lake.ducklake import open_lake

    told = dict(each.partition("=")[::2] for each in criteria)
    with _queue(task, config_path) as (service, declared, queue):
        met = labels.read_criteria(declared, told)
        item = queue.claim(completion_id, _who(author_id))
        if item is None:
            labels.must_be_answer(open_lake(service, read_only=True), task, completion_id)
        tags = labels.tags_of(item) if item else None
        events = labels.label(
            completion_id,
            verdict=labels.read_verdict(verdict or ""),
            criteria=met,
            author_id=author_id,
            tags=tags,
            **label,
        )
        labels.send(gateway or _gateway(service), events, os.environ.get("EVERLEARN_API_KEY"))
        queue.label(completion_id, _who(author_id), labels.verdict_of(events))
    click.echo(f"{completion_id}: {len(events)} accepted")


@command.command()
@click.argument("task")
@click.argument("completion_id")
@click.option("--reason", default="", help="Why you cannot tell.")
@author_option
@config_option
def skip(
    task: str, completion_id: str, reason: str, author_id: str | None, config_path: str | None
) -> None:
    """Leave an answer to somebody else."""
    with _queue(task, config_path) as (_, _, queue):
        queue.hold(completion_id, _who(author_id))
        queue.skip(completion_id, _who(author_id), reason)
    click.echo(f"{completion_id}: skipped")


@command.command()
@click.argument("task")
@click.option("--name", help="Which feedback it was; default: all that labellers give.")
@author_option
@gateway_option
@config_option
def undo(
    task: str, name: str | None, author_id: str | None, gateway: str | None, config_path: str | None
) -> None:
    """Take back your latest label or skip; the answer is before you again."""
    from evaluators import labels
    from everlearn.errors import NotFound

    who = _who(author_id)
    with _queue(task, config_path) as (service, declared, queue):
        item = queue.last(who)
        if item is None:
            raise NotFound(f"task {task}: {who} has decided nothing that could be undone")
        if item.state == "labelled":
            names = [name] if name else labels.names_of(declared, item)
            events = labels.retraction(item.completion_id, author_id=author_id, names=names)
            labels.send(gateway or _gateway(service), events, os.environ.get("EVERLEARN_API_KEY"))
        queue.undo(item.completion_id, who)
    click.echo(f"{item.completion_id}: {item.verdict or item.state} taken back")


@command.command()
@click.argument("task")
@click.argument("pair", required=False)
@click.argument("verdict", type=click.Choice(["A", "B", "tie", "skip"]), required=False)
@click.option("--comment", default="", help="Why.")
@click.option("--undo", "undoes", is_flag=True, help="Take back your latest verdict.")
@author_option
@gateway_option
@json_option
@config_option
def pairs(
    task: str,
    pair: str | None,
    verdict: "Verdict | None",
    author_id: str | None,
    gateway: str | None,
    config_path: str | None,
    *,
    comment: str,
    undoes: bool,
    as_json: bool,
) -> None:
    """Show two answers to one prompt, blind; with PAIR and a VERDICT, say which is better."""
    from evaluators.pairs import Pairs, ask, find, preference
    from everlearn.errors import InputError, NotEnoughEvidence
    from everlearn.lake.ducklake import open_lake

    who = _who(author_id)
    with _state(task, config_path) as (service, declared, state):
        queue, to = Pairs(state, declared), gateway or _gateway(service)
        if undoes:
            if pair is not None:
                raise InputError(f"pair {pair}: --undo takes your latest verdict back, and no pair")
            click.echo(_undone(queue, who, author_id, to))
            return
        if pair is not None:
            if verdict is None:
                raise InputError(f"pair {pair}: say A, B, tie or skip")
            held = queue.hold(pair, who)
            _send(to, preference(held, verdict, author_id=author_id, comment=comment))
            queue.judge(pair, who, verdict)
            click.echo(f"{pair}: {verdict}")
            return
        lake = open_lake(service, read_only=True)
        queue.offer(find(lake, declared))
        found = ask(queue, lake, task, who)
    if found is None:
        raise NotEnoughEvidence(f"task {task}: no two answers to one prompt wait for a verdict")
    if as_json:
        click.echo(json.dumps(_blind(found)))
        return
    lines = [found.pair]
    for turn in found.a.turns:
        lines += _turn(turn)
    click.echo("\n".join([*lines, *_turn(found.a.answer, "A"), *_turn(found.b.answer, "B")]))


def _undone(queue: "Pairs", who: str, author_id: str | None, gateway: str) -> str:
    """His latest verdict is taken back first where it was sent to; the pair is before him again."""
    from evaluators.pairs import retraction
    from everlearn.errors import NotFound

    last = queue.last(who)
    if last is None:
        raise NotFound(f"{who} has judged no pair that could be undone")
    pair, verdict = last
    _send(gateway, retraction(pair, verdict, author_id=author_id))
    queue.undo(pair.pair, who)
    return f"{pair.pair}: {verdict} taken back"


def _send(gateway: str, events: "list[dict[str, Any]]") -> None:
    """A verdict that says nothing of the answers sends nothing."""
    from evaluators.labels import send

    if events:
        send(gateway, events, os.environ.get("EVERLEARN_API_KEY"))


def _blind(found: "Side") -> dict[str, Any]:
    """Without the ids, which tell when an answer was given."""
    a, b = asdict(found.a), asdict(found.b)
    return {
        "pair": found.pair, "turns": a["turns"], "tools": a["tools"],
        "a": a["answer"], "b": b["answer"],
    }  # fmt: skip


@command.command()
@click.argument("task")
@json_option
@config_option
def agreement(task: str, as_json: bool, config_path: str | None) -> None:
    """How far each grader agrees with the experts, and they with each other."""
    from evaluators.labellers import labellers
    from evaluators.labels import agreements
    from everlearn.config import load
    from everlearn.lake.ducklake import open_lake
    from everlearn.task import load_task

    service = load(config_path)
    declared, lake = load_task(service, task), open_lake(service, read_only=True)
    rows = agreements(lake, declared)
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
    click.echo(labellers(lake, declared))


@contextmanager
def _queue(task: str, config_path: str | None) -> "Iterator[tuple[Service, Task, Queue]]":
    from evaluators.queue import Queue

    with _state(task, config_path) as (service, declared, state):
        yield service, declared, Queue(state, declared)


@contextmanager
def _state(task: str, config_path: str | None) -> "Iterator[tuple[Service, Task, State]]":
    from contextlib import closing

    from everlearn.config import load
    from everlearn.state import open_state
    from everlearn.task import load_task

    service = load(config_path)
    declared = load_task(service, task)
    with closing(open_state(service)) as state:
        yield service, declared, state


def _who(author_id: str | None) -> str:
    import getpass

    return author_id or getpass.getuser()


def _gateway(service: "Service") -> str:
    return f"http://{service.gateway.host}:{service.gateway.port}"


def _lines(found: "Shown") -> list[str]:
    lines = [found.completion_id]
    for turn in found.turns:
        lines += _turn(turn)
    return [*lines, *(f"  offered: {tool}" for tool in found.tools), *_turn(found.answer, "answer")]


def _turn(turn: "Turn", role: str | None = None) -> list[str]:
    told: list[Any] = [f"  {role or turn.role}: {turn.text}"] if turn.text else []
    return [*told, *(f"  {role or turn.role} calls {call}" for call in turn.calls)]

"""`everlearn config check`: the resolved config, or exit 2 with one line per problem."""

import importlib.util
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click
import yaml

from everlearn.cli import VERBS, config_option

if TYPE_CHECKING:
    from everlearn.config import Service
    from everlearn.task import Task


@click.group("config")
def command() -> None:
    """Check and print the resolved config."""


@command.command()
@click.argument("file", required=False, type=click.Path(dir_okay=False))
@config_option
def check(file: str | None, config_path: str | None) -> None:
    """Print the resolved config and the tasks, defaults and environment included."""
    from everlearn.config import load
    from everlearn.redact import without_passwords
    from everlearn.task import load_tasks

    service = load(file or config_path)
    tasks = load_tasks(service)
    _check_graders(tasks.values(), service)
    resolved = {
        **service.model_dump(mode="json"),
        "tasks": {name: task.model_dump(mode="json") for name, task in tasks.items()},
    }
    text = yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True, width=1000)
    click.echo(without_passwords(text).rstrip())


def _check_graders(tasks: "Iterable[Task]", service: "Service") -> None:
    """Whether every grader compiles, where the evaluators are installed."""
    if importlib.util.find_spec("simpleeval") is None:
        return
    from evaluators.graders import check as check_graders

    for task in tasks:
        check_graders(task, service)


@command.command()
def reference() -> None:
    """Print docs/configuration.md."""
    from everlearn.reference import render

    click.echo(render(VERBS), nl=False)

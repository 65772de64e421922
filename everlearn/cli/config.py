"""`everlearn config check`: the resolved config, or exit 2 with one line per problem."""

import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click
import yaml

from everlearn.cli import VERBS, config_option, json_option

if TYPE_CHECKING:
    from everlearn.config import Service
    from everlearn.task import Task


@click.group("config")
def command() -> None:
    """Check and print the resolved config."""


@command.command()
@click.argument("file", required=False, type=click.Path(dir_okay=False))
@json_option
@config_option
def check(file: str | None, as_json: bool, config_path: str | None) -> None:
    """Print the resolved config and the tasks, defaults and environment included."""
    from everlearn.config import load
    from everlearn.errors import ConfigError
    from everlearn.redact import shown
    from everlearn.task import read_tasks

    service = load(file or config_path)
    found = read_tasks(service)
    for note in found.notes:
        click.echo(f"everlearn: {note}", err=True)
    if found.problems:
        raise ConfigError("\n".join(found.problems))
    tasks = found.tasks
    _check_graders(tasks.values(), service)
    _check_templates(tasks.values(), service)
    resolved = shown(
        {
            **service.model_dump(mode="json"),
            "tasks": {name: task.model_dump(mode="json") for name, task in tasks.items()},
        }
    )
    if as_json:
        click.echo(json.dumps(resolved, ensure_ascii=False))
    else:
        text = yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True, width=1000)
        click.echo(text.rstrip())


def _check_graders(tasks: "Iterable[Task]", service: "Service") -> None:
    """Whether every grader compiles, where the evaluators are installed."""
    if importlib.util.find_spec("simpleeval") is None:
        return
    from evaluators.graders import check as check_graders

    for task in tasks:
        check_graders(task, service)


def _check_templates(tasks: "Iterable[Task]", service: "Service") -> None:
    """Whether each base model's chat template holds a conversation, where the model is a folder
    here and the trainer is installed: a hub id is not fetched for a check."""
    if importlib.util.find_spec("transformers") is None:
        return
    from everlearn.task import base_model_path

    found = [task for task in tasks if Path(base_model_path(service, task)).is_dir()]
    if not found:
        return
    from trainer.workbench import Workbench

    for task in found:
        assert Workbench.of(service, task).encoder


@command.command()
def reference() -> None:
    """Print docs/configuration.md."""
    from everlearn.reference import render

    click.echo(render(VERBS), nl=False)

"""`everlearn grade FILE --item I --sample S` and `everlearn grade validate FILE`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from everlearn.cli import config_option, json_option

if TYPE_CHECKING:
    from everlearn.config import Service


class _Grade(click.Group):
    """A group whose first argument may also be a grader file: `grade FILE` is `grade run FILE`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group("grade", cls=_Grade, subcommand_metavar="FILE [OPTIONS] | validate FILE")
def command() -> None:
    """Run the grader in FILE on one answer, or check that it compiles."""


_file = click.argument("file", type=click.Path(exists=True, dir_okay=False))


@command.command("run", hidden=True)
@_file
@click.option("--item", default="{}", help="JSON object, or @FILE.", show_default=True)
@click.option("--sample", required=True, help="The answer: text, a JSON object, or @FILE.")
@json_option
@config_option
def run(file: str, item: str, sample: str, as_json: bool, config_path: str | None) -> None:
    """Print {reward, sub_rewards, metadata, model_grader_token_usage_per_model}.

    For people indented, with --json in one line.
    """
    from evaluators.bulk import in_background
    from evaluators.definition import read
    from evaluators.route import payer, run_grader
    from everlearn.errors import InputError
    from everlearn.task import read_tasks

    service = _service(config_path)
    content = _json_object(_read(item))
    if content is None:
        raise InputError(f"--item {item!r}: not a JSON object")
    text = _read(sample)
    spec = read(Path(file))
    paid_by = None if service is None else payer(spec, read_tasks(service).tasks)
    answer = _json_object(text) or text
    work = run_grader(spec, content, answer, Path(file).parent, service, paid_by=paid_by)
    click.echo(json.dumps(in_background(work), indent=None if as_json else 2))


@command.command()
@_file
@json_option
@config_option
def validate(file: str, as_json: bool, config_path: str | None) -> None:
    """Exit 0 when the grader compiles; 2 with one line when it does not.

    Where there is a config, what the grader needs of it is checked too.
    """
    from evaluators.definition import read, standalone
    from evaluators.graders import build

    spec = read(Path(file))
    build(spec, standalone(spec, Path(file).parent), _service(config_path))
    if as_json:
        click.echo(json.dumps({"file": file, "type": spec.type, "name": spec.name, "valid": True}))
    else:
        click.echo(f"{file}: {spec.type} grader {spec.name} is valid")


def _service(config_path: str | None) -> "Service | None":
    """The config where one is named or at hand: a grader that asks no model needs none."""
    from everlearn.config import config_file, load

    return load(config_path) if config_path or config_file(None).exists() else None


def _read(value: str) -> str:
    from everlearn.errors import InputError

    if not value.startswith("@"):
        return value
    try:
        return Path(value[1:]).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{value[1:]}: {error.strerror}") from error


def _json_object(text: str) -> dict[str, Any] | None:
    """The object, None for text that is none."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None

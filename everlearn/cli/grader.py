"""`everlearn grader draft TASK --rubric FILE`: a grader from plain language."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from everlearn.cli import config_option, json_option

if TYPE_CHECKING:
    from evaluators.draft import Apart, Draft, Tried

SHOWN = 5
"""Disagreements that are printed."""


@click.group("grader", subcommand_metavar="draft TASK --rubric FILE [OPTIONS]")
def command() -> None:
    """Have a grader written from plain language."""


@command.command("draft")
@click.argument("task")
@click.option(
    "--rubric", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True,
    help="What a good answer is, in plain words.",
)  # fmt: skip
@click.option("--name", help="Of the grader; default: that of the file.")
@click.option("--judge", help="The judge of TASK whose model writes; default: the first.")
@click.option("--model", help="Another model that writes, and judges where it has to.")
@click.option("--upstream", help="Where --model is; default: the service's default upstream.")
@click.option(
    "--accept", is_flag=True, help="Take it into the task file, as an adviser: the draft that was "
    "shown for this rubric, else a new one.",
)  # fmt: skip
@json_option
@config_option
def draft_(
    task: str,
    rubric: Path,
    name: str | None,
    judge: str | None,
    model: str | None,
    upstream: str | None,
    *,
    accept: bool,
    as_json: bool,
    config_path: str | None,
) -> None:
    """Ask a model for a grader, try it on labelled answers, show where it and people part.

    Exit 0 when there is one that people may agree with, 1 when there is none or they disagree with
    it, 3 without labels to try it on, 4 when the model does not answer.
    """
    import sys

    from evaluators import drafts
    from evaluators.draft import draft, examples, measure, model_writer, require_free, writer
    from everlearn.config import load
    from everlearn.errors import InputError
    from everlearn.lake.ducklake import open_lake
    from everlearn.task import load_task

    service = load(config_path)
    declared = load_task(service, task)
    if upstream and not model:
        raise InputError(f"--upstream {upstream!r}: of --model, which is not given")
    by = model_writer(model, upstream) if model else writer(declared, judge)
    named, text = name or rubric.stem, _text(rubric)
    require_free(declared, named)
    among = examples(service, declared, open_lake(service, read_only=True))
    found = drafts.kept(service, declared, text, named) if accept else None
    if found is None:
        found = draft(service, declared, text, named, by=by, among=among)
        drafts.keep(service, declared, text, found)
    tried = measure(service, declared, found.grader, among, shown=found.shown)
    least = declared.judges.min_agreement
    refused = tried.agreement is None or tried.agreement.upper < least
    path = drafts.accept(service, declared, found.grader) if accept and not refused else None
    if as_json:
        click.echo(_json(found, tried, None if path is None else str(path)))
    else:
        click.echo("\n".join(_lines(found, tried)))
        click.echo(_outcome(task, found, tried, least, path))
    sys.exit(1 if refused else 0)


def _text(rubric: Path) -> str:
    from everlearn.errors import InputError

    try:
        return rubric.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"--rubric {rubric}: not UTF-8 text at byte {error.start}") from error


def _lines(found: "Draft", tried: "Tried") -> list[str]:
    import yaml

    from evaluators.drafts import plain

    spec = plain(found.grader)
    lines = [yaml.safe_dump([spec], sort_keys=False, allow_unicode=True, width=100).rstrip()]
    if found.reason:
        lines.append(f"why: {found.reason}")
    if tried.agreement is not None and tried.table is not None:
        kappa = "not defined" if tried.table.kappa is None else f"{tried.table.kappa:.2f}"
        value, lower, upper = tried.agreement
        lines.append(
            f"agreement {value:.3f} [{lower:.3f}, {upper:.3f}] on {tried.labels} labels of "
            f"{tried.units} users, kappa {kappa}; too kind {tried.table.judge_too_kind}, too "
            f"strict {tried.table.judge_too_strict}; {len(found.shown)} more were shown to it"
        )
    if tried.unscored:
        lines.append(f"{tried.unscored} unscored, the first: {tried.why_unscored}")
    if tried.circular:
        lines.append(f"{tried.circular} labels left out: it reads the same expert's right answer")
    return lines + [_apart(each) for each in tried.apart[:SHOWN]]


def _apart(each: "Apart") -> str:
    says = "right" if each.expert else "wrong"
    why = f" ({each.reason})" if each.reason else ""
    return (
        f"  {each.completion_id}: people say {says}, it {each.value:g}{why}: {each.answer!r:.160}"
    )


def _outcome(task: str, found: "Draft", tried: "Tried", least: float, path: Path | None) -> str:
    name = found.grader.name
    if path is not None:
        return (
            f"{path}: {name} advises from now on; `everlearn judges {task}` says when it may gate"
        )
    if tried.agreement is None:
        return "not taken: it has no verdict on any of the labelled answers"
    if tried.agreement.upper < least:
        return (
            f"not taken: agreement at most {tried.agreement.upper:.3f} < judges.min_agreement "
            f"{least:g}; say more in the rubric"
        )
    return "not in the task file: the same with --accept takes it, as an adviser"


def _json(found: "Draft", tried: "Tried", path: str | None) -> str:
    from dataclasses import asdict

    from evaluators.drafts import plain

    of = tried.agreement
    row = asdict(tried)
    row["agreement"] = None if of is None else of._asdict()
    row["table"] = None if tried.table is None else tried.table._asdict()
    row |= {"grader": plain(found.grader), "shown": found.shown, "attempts": found.attempts}
    return json.dumps({**row, "reason": found.reason, "accepted": path})

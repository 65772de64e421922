"""`everlearn evaluate TASK`: scores what is not yet scored."""

import json
from datetime import UTC, datetime

import click

from everlearn.cli import config_option, json_option


@click.command("evaluate")
@click.argument("task")
@click.option("--grader", help="Only this grader.")
@click.option("--since", help="Only completions received from then on (ISO time, UTC by default).")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many completions.")
@json_option
@config_option
def command(
    task: str,
    grader: str | None,
    since: str | None,
    limit: int | None,
    as_json: bool,
    config_path: str | None,
) -> None:
    """Score the completions of TASK that are not yet scored, and fill its label queue."""
    from evaluators.fill import fill
    from evaluators.run import evaluate
    from everlearn.config import load
    from everlearn.lake.ducklake import open_lake
    from everlearn.process_log import set_up
    from everlearn.task import load_task

    service = load(config_path)
    set_up(service.logging, "evaluate")
    declared = load_task(service, task)
    lake = open_lake(service)
    try:
        report = evaluate(
            service, declared, lake, grader=grader, since=iso_time(since), limit=limit
        ).to_json()
        filled = fill(service, declared, lake)
    finally:
        lake.close()
    if as_json:
        click.echo(json.dumps({**report, "labels_queued": sum(filled)}))
        return
    click.echo(f"{task}: {report['completions']} completions looked at")
    for name, counts in report["graders"].items():
        mean = "" if counts["mean"] is None else f", mean {counts['mean']:.3f}"
        click.echo(f"  {name}: {counts['scored']} scored{mean}, {counts['unscored']} unscored")
        for reason, count in sorted(counts["reasons"].items(), key=lambda row: -row[1])[:3]:
            click.echo(f"    {count} x {reason}")
    if sum(filled):
        click.echo(f"  label queue: {filled.random} by chance, {filled.chosen} by worth")


def iso_time(text: str | None) -> datetime | None:
    """`--since` as a time; InputError says how to write one."""
    from everlearn.errors import InputError

    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError(
            f"--since {text!r}: not an ISO time; for example 2026-11-21T09:30"
        ) from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)

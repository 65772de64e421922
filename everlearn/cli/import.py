"""`everlearn import`: logs and ratings that exist already, into the lake."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from everlearn.cli import config_option, json_option

if TYPE_CHECKING:
    from collector.importing.run import Report

SHOWN = 20
"""Refused rows named on a terminal; `--json` names up to a thousand."""


@click.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--format",
    "format_name",
    required=True,
    type=click.Choice(["openai", "langfuse", "tensorzero", "parquet"]),
    help="What wrote the file.",
)
@click.option("--task", "task_name", help="The task these conversations belong to.")
@click.option(
    "--consent",
    is_flag=True,
    help="Models may learn from these rows; without it they only inform.",
)
@json_option
@config_option
def command(
    file: Path,
    format_name: str,
    task_name: str | None,
    consent: bool,
    as_json: bool,
    config_path: str | None,
) -> None:
    """Import the logged conversations and ratings in FILE; the same file twice changes nothing.

    Exit 1 when not one row could be taken.
    """
    from everlearn.config import load
    from everlearn.lake.ducklake import open_lake
    from everlearn.task import load_task

    service = load(config_path)
    if task_name is not None:
        load_task(service, task_name)

    from collector.importing.read import size
    from collector.importing.rows import Terms
    from collector.importing.run import run

    terms = Terms(format_name, task_name, consent)
    lake = open_lake(service)
    try:
        with click.progressbar(
            length=size(file), label=file.name, file=sys.stderr, hidden=not sys.stderr.isatty()
        ) as bar:
            report = run(lake, file, terms, lambda position: bar.update(position - bar.pos))
    finally:
        lake.close()
    _print(report, as_json)
    if report.refused and not report.completions + report.feedback + report.repeated:
        sys.exit(1)


def _print(report: "Report", as_json: bool) -> None:
    if as_json:
        from dataclasses import asdict

        click.echo(json.dumps(asdict(report), indent=2))
        return
    click.echo(
        f"{report.rows} rows: {report.completions} conversations and {report.feedback} ratings "
        f"imported, {report.repeated} known already, {report.skipped} of another kind, "
        f"{report.refused} refused"
    )
    for number, reason in report.reasons[:SHOWN]:
        click.echo(f"  row {number}: {reason}")
    if report.refused > SHOWN:
        click.echo(f"  and {report.refused - SHOWN} more: see --json")

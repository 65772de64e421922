"""`everlearn drift TASK`: has what is asked and answered changed?"""

from typing import TYPE_CHECKING, Any

import click

from everlearn.cli import config_option, json_option

if TYPE_CHECKING:
    from evaluators.drift.look import Compared, Look
    from everlearn.config import Service

DRIFTED = 5
"""Exit code of its own: a crash of Python is a 1, and must not pass for drift."""


@click.command("drift")
@click.argument("task_name", metavar="TASK")
@click.option("--accept", "accepted", is_flag=True, help="The last window is the new reference.")
@json_option
@config_option
def command(task_name: str, accepted: bool, as_json: bool, config_path: str | None) -> None:
    """Compare the newest window of TASK's traffic with its reference.

    Exit 0 as it was, 5 something stands out, 3 no new window is full yet. The numbers go to the
    lake (`drift`, `drift_looks`); with Evidently installed an HTML report to the data folder and to
    MLflow.
    """
    import json
    import sys

    from evaluators.drift.look import accept, look
    from everlearn.config import load
    from everlearn.lake.ducklake import open_lake
    from everlearn.process_log import set_up
    from everlearn.task import load_task

    service = load(config_path)
    set_up(service.logging, "drift")
    task = load_task(service, task_name)
    lake = open_lake(service)
    try:
        if accepted:
            click.echo(f"{task.task}: the window of look {accept(lake, task)} is the reference")
            return
        found, compared = look(lake, task)
    finally:
        lake.close()
    report = _report(service, found, compared)
    if as_json:
        click.echo(json.dumps({**found.to_json(), "report": report}))
    else:
        click.echo(_text(found, report))
    sys.exit(DRIFTED if found.metrics else 0)


def _report(service: "Service", found: "Look", compared: "Compared") -> dict[str, Any]:
    """Where the page is, and why it is not in MLflow where it is not: that stops no look."""
    from evaluators.drift import report
    from everlearn.errors import RegistryError

    if not report.is_available():
        return {"path": None, "mlflow_run": None, "note": report.MISSING}
    path = service.data_path / "drift" / found.task / f"look-{found.look:05d}.html"
    report.write(path, compared.before, compared.now)
    from registry.record import keep_report

    shown: dict[str, Any] = {"path": str(path), "mlflow_run": None, "note": None}
    shifts = {f"drift.{change.metric}": change.shift for change in found.changes}
    try:
        shown["mlflow_run"] = keep_report(service, found.task, path, shifts)
    except RegistryError as error:
        shown["note"] = f"not in MLflow: {error}"
    return shown


def _text(found: "Look", report: dict[str, Any]) -> str:
    lines = [
        f"{found.task}: {found.event}: {found.reason}",
        f"  look {found.look}, {found.window_rows} completions until {found.window.until:%F %T} "
        f"against {found.reference_rows} until {found.reference.until:%F %T}",
        f"  {'metric':32} {'before':>10} {'now':>10} {'moved':>7} {'p':>9}",
    ]
    for change in found.changes:
        mark = "  <--" if change.metric in found.metrics else ""
        name = change.metric if change.detail is None else f"{change.metric}={change.detail}"
        lines.append(
            f"  {name[:32]:32} {change.before:10.4g} {change.now:10.4g} "
            f"{change.shift:7.1%} {change.p_value:9.1e}{mark}"
        )
    places = [report["path"], report["mlflow_run"] and f"MLflow run {report['mlflow_run']}"]
    told = [*filter(None, places), *filter(None, [report["note"]])]
    return "\n".join([*lines, f"  report: {'; '.join(told)}" if told else "  no report"])

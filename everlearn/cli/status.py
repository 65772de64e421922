"""`everlearn status`: capture ledger, feedback, scores, champion and release of each task."""

from typing import TYPE_CHECKING, Any

import click

from everlearn.cli import config_option, json_option

if TYPE_CHECKING:
    from everlearn.config import Service
    from everlearn.lake.store import Lake


@click.command("status")
@json_option
@config_option
def command(as_json: bool, config_path: str | None) -> None:
    """Show whether anything is missing, and where every task stands."""
    import json

    from everlearn.config import load
    from everlearn.lake.ducklake import open_lake

    service = load(config_path)
    lake = open_lake(service, read_only=True)
    report = status(service, lake)
    click.echo(json.dumps(report, default=str) if as_json else _text(report))


def status(service: "Service", lake: "Lake") -> dict[str, Any]:
    """The whole report: `capture`, `feedback`, `scores`, `tasks`."""
    from collector.ledger import ledger, totals

    return {
        "capture": totals(ledger(service, lake)),
        "feedback": _feedback(lake),
        "scores": _scores(lake),
        "tasks": _tasks(service, lake),
    }


def _feedback(lake: "Lake") -> dict[str, int]:
    states = ("joined", "orphan", "retracted", "superseded", "duplicate", "retraction")
    sql = "SELECT state, count(*) AS n, count(*) FILTER (ambiguous) AS a FROM feedback_state "
    rows = lake.read(sql + "GROUP BY state").to_pylist()
    counts = {row["state"]: row["n"] for row in rows}
    names = {"orphan": "orphans"}
    shown = {names.get(state, state): counts.get(state, 0) for state in states}
    return {**shown, "ambiguous": sum(row["a"] for row in rows)}


def _scores(lake: "Lake") -> list[dict[str, Any]]:
    sql = """
        SELECT task, evaluator, count(value) AS scored, count(*) - count(value) AS unscored,
            avg(value) AS mean
        FROM scores_current GROUP BY task, evaluator ORDER BY task, evaluator"""
    rows: list[dict[str, Any]] = lake.read(sql).to_pylist()
    return rows


def _tasks(service: "Service", lake: "Lake") -> dict[str, dict[str, Any]]:
    from everlearn.task import load_tasks
    from gateway.routes import read_routes

    sql = "SELECT task, arg_max(struct_pack(release_id, version, event, phase, percent, reason, "
    sql += "created_at), created_at) AS last FROM releases GROUP BY task"
    releases = {row["task"]: row["last"] for row in lake.read(sql).to_pylist()}
    routes = read_routes(service.routes_path).tasks
    report = {}
    for name in sorted({*load_tasks(service), *routes}):
        route = routes.get(name)
        report[name] = {
            "champion": route.champion.version if route else "base",
            "challenger": route.challenger.version if route and route.challenger else None,
            "challenger_share": route.challenger_share if route else 0.0,
            "release": releases.get(name),
        }
    return report


def _text(report: dict[str, Any]) -> str:
    capture = report["capture"]
    names = [name for name in capture if name != "gateways"]
    lines = ["capture   " + "  ".join(f"{name} {capture[name]:g}" for name in names)]
    for row in capture["gateways"]:
        values = "  ".join(f"{name} {row[name]:g}" for name in names)
        lines.append(f"  {row['gateway_id']}  {values}")
    lines.append("feedback  " + "  ".join(f"{k} {v}" for k, v in report["feedback"].items()))
    for row in report["scores"]:
        mean = "-" if row["mean"] is None else f"{row['mean']:.3f}"
        counts = f"scored {row['scored']}  unscored {row['unscored']}  mean {mean}"
        lines.append(f"scores    {row['task']}  {row['evaluator']}  {counts}")
    for name, task in report["tasks"].items():
        line = f"task      {name}  champion {task['champion']}"
        if task["challenger"]:
            line += f"  challenger {task['challenger']} at {task['challenger_share']:.0%}"
        if task["release"]:
            line += f"  last release {task['release']['event']}: {task['release']['reason']}"
        lines.append(line)
    return "\n".join(lines)

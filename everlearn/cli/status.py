"""`everlearn status`: capture ledger, feedback, scores, champion and release of each task."""

from typing import TYPE_CHECKING, Any

import click

from everlearn.cli import config_option, json_option

if TYPE_CHECKING:
    from collector.tally import Tally
    from everlearn.config import Service
    from everlearn.lake.store import Lake
    from gateway.routes import TaskRoute


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
    from collector.tally import Gateway, Tally, tally

    counted: list[Tally] = []

    def count() -> dict[str, Gateway]:
        counted.append(tally(lake))
        return counted[0].gateways

    capture = totals(ledger(service, lake, count))
    return {
        "capture": capture,
        "feedback": _feedback(counted[0]),
        "scores": _scores(counted[0]),
        "tasks": _tasks(service, lake),
    }


def _feedback(counted: "Tally") -> dict[str, int]:
    states = ("joined", "orphan", "retracted", "superseded", "duplicate", "retraction")
    names = {"orphan": "orphans"}
    shown = {
        names.get(state, state): counted.states.get(state, (0, 0))[0]
        for state in (*states, "not_allowed")
    }
    return {**shown, "ambiguous": sum(ambiguous for _, ambiguous in counted.states.values())}


def _scores(counted: "Tally") -> list[dict[str, Any]]:
    rows = sorted(counted.scores.items(), key=lambda row: (row[0][0] or "", row[0][1]))
    return [
        {
            **{"task": task, "evaluator": evaluator, "scored": scored, "unscored": unscored},
            "mean": total / scored if scored else None,
        }
        for (task, evaluator), (scored, unscored, total) in rows
        if scored or unscored
    ]


def _tasks(service: "Service", lake: "Lake") -> dict[str, dict[str, Any]]:
    from contextlib import closing
    from dataclasses import asdict

    from evaluators.judge.budget import spending
    from evaluators.report import kept
    from everlearn.state import open_state
    from everlearn.task import read_tasks
    from gateway.routes import read_routes

    sql = "SELECT task, arg_max(struct_pack(release_id, version, event, phase, percent, reason, "
    sql += "created_at), created_at) AS last FROM releases GROUP BY task"
    releases = {row["task"]: row["last"] for row in lake.read(sql).to_pylist()}
    routes = read_routes(service.routes_path).tasks
    declared = read_tasks(service).tasks
    names = sorted({*declared, *routes})
    with closing(open_state(service)) as state:
        rates = {name: kept(state, name) for name in names}
        spent = {name: spending(state, task) for name, task in declared.items()}
    report = {}
    for name in names:
        route = routes.get(name)
        report[name] = {
            "champion": route.champion.version if route else "base",
            "challenger": _challenging(route) if route else None,
            "challenger_share": route.challenger_share if route else 0.0,
            "release": releases.get(name),
            "rates": rates[name],
            "judges_spent": asdict(today) if (today := spent.get(name)) else None,
        }
    return report


def _challenging(route: "TaskRoute") -> str | None:
    """One version, or those of several that were not dropped."""
    found = [arm.version for arm in (route.challenger, *route.challengers) if arm is not None]
    return ", ".join(found) or None


def _text(report: dict[str, Any]) -> str:
    from evaluators.judge.budget import Spending

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
        lines += [_rate(name, rate) for rate in task["rates"]]
        if task["judges_spent"]:
            lines.append(f"judges    {name}  {Spending(**task['judges_spent'])}")
    return "\n".join(lines)


def _rate(task: str, rate: dict[str, Any]) -> str:
    interval = f"[{rate['lower']:.1%}, {rate['upper']:.1%}]"
    return (
        f"right     {task}  version {rate['version']}  {rate['rate']:.1%} {interval} by "
        f"{rate['grader']} and {rate['labels']} labels, {rate['at']}"
    )

"""`everlearn judges TASK`: which judge may decide, and how many answers are right.

`everlearn judges probe TASK`: what moves a judge that should not.
`everlearn judges align TASK JUDGE`: guidelines by which a judge agrees more with people.
"""

import json
from typing import TYPE_CHECKING, Any

import click

from everlearn.cli import config_option, json_option

if TYPE_CHECKING:
    from evaluators.align import Aligned
    from evaluators.criteria import Agreed
    from evaluators.draft import Tried
    from evaluators.judges import Standing
    from evaluators.probe import Probe


class _Judges(click.Group):
    """`judges TASK` is `judges show TASK`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["show", *args]
        return super().parse_args(ctx, args)


@click.group("judges", cls=_Judges, subcommand_metavar="TASK | probe TASK | align TASK JUDGE")
def command() -> None:
    """Which judge may gate, how many answers are right; what moves a judge that should not."""


@command.command("probe")
@click.argument("task")
@click.option("--grader", help="Only this judge.")
@click.option(
    "--limit",
    type=click.IntRange(5, 1000),
    default=20,
    show_default=True,
    help="Newest answers that it is asked about, four or more times each.",
)
@json_option
@config_option
def probe_(
    task: str, grader: str | None, limit: int, as_json: bool, config_path: str | None
) -> None:
    """Ask the judges of TASK about copies that are no better and no worse.

    Exit 0 when nothing stands out, 1 when a bias does, 3 without answers to ask about.
    """
    import sys
    from dataclasses import asdict

    from evaluators.probe import probe
    from everlearn.config import load
    from everlearn.lake.ducklake import open_lake
    from everlearn.task import load_task

    service = load(config_path)
    lake = open_lake(service, read_only=True)
    found = probe(service, load_task(service, task), lake, grader=grader, limit=limit)
    if as_json:
        click.echo(json.dumps([{**asdict(each), "stands_out": each.stands_out} for each in found]))
    else:
        for each in found:
            click.echo(_probe(each))
    sys.exit(1 if any(each.stands_out for each in found) else 0)


def _probe(each: "Probe") -> str:
    start = f"{each.judge}: {each.probe}: "
    if each.shift is None:
        return f"{start}not known: {each.note}"
    flips = "" if each.flipped is None else f", {each.flipped:.0%} change sides"
    mark = "  <-- stands out" if each.stands_out else ""
    return (
        f"{start}{each.shift:+.3f} [{each.lower:+.3f}, {each.upper:+.3f}] on {each.answers} "
        f"answers{flips}: {each.note}{mark}"
    )


@command.command("align")
@click.argument("task")
@click.argument("judge")
@json_option
@config_option
def align_(task: str, judge: str, as_json: bool, config_path: str | None) -> None:
    """Have guidelines for JUDGE written from experts' labels, and keep them if it agrees more.

    Of the labels that it may be tuned on, some are learned from and the others measure. Exit 0 when
    a file is written, 1 when nothing agrees more, 3 with too few labels, 4 without the model.
    """
    import sys

    from evaluators.align import align, keep
    from everlearn.config import load
    from everlearn.lake.ducklake import open_lake
    from everlearn.task import load_task

    service = load(config_path)
    declared = load_task(service, task)
    found = align(service, declared, open_lake(service, read_only=True), judge)
    path = keep(declared, found) if found.better else None
    if as_json:
        click.echo(_aligned_json(found, path))
    else:
        click.echo("\n".join(_aligned(task, found, path)))
    sys.exit(0 if found.better else 1)


def _aligned(task: str, found: "Aligned", path: str | None) -> list[str]:
    lines = [
        f"{found.judge}: without {_agreed(found.before)}",
        f"{' ' * len(found.judge)}  with    {_agreed(found.after)}; {found.learned_from} more were "
        "learned from",
    ]
    if path is None:
        return [*lines, "nothing written: no guidelines were found that agree more"]
    told = [f"  {line}" for line in found.guidelines.splitlines()]
    return [
        *lines,
        f"{path}:",
        *told,
        f"read them; `guidelines: {path}` in grader {found.judge} takes them. It is another "
        f"version then and earns its vote anew: `everlearn evaluate {task}`, "
        f"`everlearn judges {task}`",
    ]


def _agreed(tried: "Tried") -> str:
    if tried.agreement is None:
        return "no verdict"
    value, lower, upper = tried.agreement
    unscored = f", {tried.unscored} unscored" if tried.unscored else ""
    return (
        f"{value:.3f} [{lower:.3f}, {upper:.3f}] on {tried.labels} held labels of {tried.units} "
        f"users{unscored}"
    )


def _aligned_json(found: "Aligned", path: str | None) -> str:
    def told(tried: "Tried") -> dict[str, Any]:
        of = tried.agreement
        return {
            "agreement": None if of is None else of._asdict(),
            "labels": tried.labels, "users": tried.units, "unscored": tried.unscored,
            "apart": [each.completion_id for each in tried.apart],
        }  # fmt: skip

    return json.dumps({
        "judge": found.judge, "guidelines": found.guidelines, "file": path,
        "learned_from": found.learned_from,
        "before": told(found.before), "after": told(found.after),
    })  # fmt: skip


@command.command("show", hidden=True)
@click.argument("task")
@json_option
@config_option
def show(task: str, as_json: bool, config_path: str | None) -> None:
    """Hold every grader of TASK against experts' labels: may it gate, and why."""
    from dataclasses import asdict

    from evaluators.report import report
    from everlearn.config import load
    from everlearn.lake.ducklake import open_lake
    from everlearn.task import load_task

    service = load(config_path)
    declared = load_task(service, task)
    found = report(service, declared, open_lake(service, read_only=True))
    if as_json:
        rows = [_json(asdict(each), each) for each in found.graders]
        rates = [{"grader": name, **rate} for name, rate in found.rates]
        spent = found.spending and asdict(found.spending)
        criteria = [_json(asdict(each), each) for each in found.criteria]
        more = {"spending": spent, "labellers": asdict(found.labellers)}
        told = {"task": task, "graders": rows, "criteria": criteria, "rates": rates, **more}
        click.echo(json.dumps(told))
        return
    for each in found.graders:
        click.echo("\n".join(_lines(each)))
        for part in found.criteria:
            if part.grader == each.grader:
                click.echo(f"  {part}")
    for name, rate in found.rates:
        click.echo(_rate(name, rate))
    click.echo(found.labellers)
    if found.spending is not None:
        click.echo(f"spent: {found.spending}")


def _json(row: dict[str, Any], standing: "Standing | Agreed") -> dict[str, Any]:
    table = standing.confusion
    return {**row, "confusion": None if table is None else table._asdict()}


def _lines(each: "Standing") -> list[str]:
    lines = [f"{each.grader} ({each.kind}): {_may(each)}: {each.reason}"]
    if each.agreement is not None and each.confusion is not None:
        kappa = "not defined" if each.kappa is None else f"{each.kappa:.2f}"
        table = each.confusion
        lines.append(
            f"  agreement {each.agreement:.3f} [{each.lower:.3f}, {each.upper:.3f}] on "
            f"{each.labels} labels of {each.units} users, kappa {kappa}; "
            f"too kind {table.judge_too_kind}, too strict {table.judge_too_strict}"
        )
    if each.disagreements:
        lines.append(f"  disagrees on {', '.join(each.disagreements)}")
    if each.circular:
        lines.append(f"  {each.circular} labels left out: it had seen the same expert's word")
    return lines


def _may(each: "Standing") -> str:
    return "may gate" if each.may_gate else "may only advise"


def _rate(name: str, rate: dict[str, Any]) -> str:
    line = (
        f"version {rate['version']}: {rate['rate']:.1%} right [{rate['lower']:.1%}, "
        f"{rate['upper']:.1%}] by {name}"
    )
    if rate["weight"] == 0:
        return f"{line}: {rate['labels']} by chance"
    return (
        f"{line} on {rate['answers']} answers and {rate['labels']} labels by chance, as good as "
        f"{rate['worth_labels']:.0f} labels alone"
    )

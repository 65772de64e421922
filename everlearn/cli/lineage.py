"""`everlearn lineage`: what a version was made of, and where a unit's rows went."""

from typing import TYPE_CHECKING

import click

from everlearn.cli import config_option, json_option

if TYPE_CHECKING:
    from everlearn.config import Service
    from registry.erasure import Redacted
    from registry.units import Use
    from registry.versions import Registry


@click.command("lineage")
@click.argument("version", required=False)
@click.option("--unit", help="Whose rows: the user, conversation or request that asked.")
@click.option("--task", "task_name", help="Which task; needed where several have that version.")
@click.option(
    "--redact",
    "redacts",
    is_flag=True,
    help="Take texts of rows that the lake has lost out of what trainings kept.",
)
@json_option
@config_option
def command(
    version: str | None,
    unit: str | None,
    task_name: str | None,
    redacts: bool,
    as_json: bool,
    config_path: str | None,
) -> None:
    """Tell what VERSION (a number, or its name on the servers) was made of and what became of it;
    with --unit, which snapshots and versions have rows of that unit, and which of those are served;
    --redact, after an erasure, takes the texts out of what trainings kept.
    """
    import json
    from dataclasses import asdict

    from everlearn.config import load
    from everlearn.errors import InputError
    from everlearn.lake.ducklake import open_lake
    from registry.erasure import redact
    from registry.lineage import account, lines
    from registry.units import uses
    from registry.versions import Registry

    if [version is not None, unit is not None, redacts].count(True) != 1:
        raise InputError("name a VERSION or --unit U, or --redact: `everlearn lineage --help`")
    service = load(config_path)
    tasks = _tasks(service, task_name)
    registry = Registry(service)
    lake = open_lake(service, read_only=True)
    try:
        if redacts:
            done = redact(registry, lake, tasks)
            told = "\n".join(_redacted(done))
            click.echo(json.dumps([each._asdict() for each in done]) if as_json else told)
            return
        if unit is not None:
            found = uses(registry, lake, unit, tasks)
            rows = [asdict(use) for use in found]
            told = "\n".join(_of_unit(unit, found))
            click.echo(json.dumps({"unit": unit, "uses": rows}) if as_json else told)
            return
        made = account(registry, lake, *_find(registry, version or "", tasks))
    finally:
        lake.close()
    if as_json:
        click.echo(json.dumps(asdict(made), default=str))
        return
    head, *rest = lines(made)
    click.echo("\n".join([head, *(f"  {line}" for line in rest)]))


def _tasks(service: "Service", name: str | None) -> list[str]:
    from everlearn.task import load_task, read_tasks

    return sorted(read_tasks(service).tasks) if name is None else [load_task(service, name).task]


def _find(registry: "Registry", version: str, tasks: list[str]) -> tuple[str, str]:
    """The task that has it, and its number."""
    from everlearn.errors import InputError, NotFound
    from registry.versions import BASE

    if len(tasks) == 1 and (version == BASE or version.isdigit()):
        return tasks[0], version  # it is told what there is, if not that
    found = [
        (task, each.version)
        for task in tasks
        for each in registry.versions(task)
        if version in (each.version, each.model_name)
    ]
    if not found:
        raise NotFound(f"no version {version!r} of {', '.join(tasks) or 'any task: there is none'}")
    if len(found) > 1:
        names = ", ".join(task for task, _ in found)
        raise InputError(
            f"version {version}: several tasks have one ({names}): name it with --task"
        )
    return found[0]


def _redacted(done: "list[Redacted]") -> list[str]:
    """What was taken out, for people."""
    told = [f"{each.task} run {each.run_id}: {each.texts} in {each.file}" for each in done]
    return told or ["no training kept a text of a row that the lake has lost"]


def _of_unit(unit: str, found: "list[Use]") -> list[str]:
    """The uses for people."""
    if not found:
        return [f"{unit}: no snapshot has a row of this unit"]
    told = []
    for use in found:
        rows = ", ".join(f"{number} {side}" for side, number in sorted(use.rows.items()))
        gone = ", erased from the lake since" if use.erased else ""
        told.append(f"{use.task} {use.snapshot_id}: {rows}{gone}")
        for each in use.versions:
            learned = "learned from them" if each["learned"] else "was not taught them"
            names = f" ({', '.join(each['aliases'])})" if each["aliases"] else ""
            served = "is served" if each["served"] else "is not served"
            told.append(f"  version {each['version']} {learned}, {each['state']}{names}, {served}")
        if not use.versions:
            told.append("  no version was made of it")
    known = {
        f"{use.task} {each['version']}"
        for use in found
        for each in use.versions
        if use.erased and each["learned"] and each["served"]
    }
    if known:
        told.append(f"erased, and still known to what is served: {', '.join(sorted(known))}")
    return told

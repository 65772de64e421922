"""`everlearn trust`: how far each rater of a task is believed, and who is quarantined."""

import json

import click

from everlearn.cli import config_option, json_option


@click.command("trust")
@click.argument("task_name", metavar="TASK")
@click.option("--release", "rater", metavar="RATER", help="End the quarantine of this rater.")
@json_option
@config_option
def command(task_name: str, rater: str | None, as_json: bool, config_path: str | None) -> None:
    """Who is quarantined and why; the next snapshot hears whom --release names."""
    from everlearn.config import load
    from everlearn.lake.ducklake import open_lake
    from everlearn.task import load_task

    service = load(config_path)
    task = load_task(service, task_name)

    from evaluators.quarantine import release, released
    from trainer.snapshot import raters

    if rater is not None:
        new = release(service, task.task, rater)
        click.echo(f"{rater}: {'released' if new else 'was released before'}", err=True)
    lake = open_lake(service, read_only=True)
    try:
        found = raters(lake, task, released(service, task.task))
    finally:
        lake.close()
    held = {name: each.quarantined for name, each in found.items() if each.quarantined}
    if as_json:
        weights = {name: round(each.weight, 3) for name, each in sorted(found.items())}
        click.echo(json.dumps({"raters": len(found), "quarantined": held, "weights": weights}))
        return
    click.echo(f"{len(found)} raters, {len(held)} quarantined")
    for name, reason in sorted(held.items()):
        click.echo(f"  {name}: {reason}")

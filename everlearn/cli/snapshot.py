"""`everlearn snapshot`: freeze a dataset."""

import json

import click

from everlearn.cli import config_option, json_option


@click.command("snapshot")
@click.argument("task_name", metavar="TASK")
@json_option
@config_option
def command(task_name: str, as_json: bool, config_path: str | None) -> None:
    """Freeze TASK's judged and ordinary answers; `train --snapshot ID` trains on them."""
    from everlearn.config import load
    from everlearn.installation import heldout_salt
    from everlearn.lake.ducklake import open_lake
    from everlearn.process_log import set_up
    from everlearn.task import load_task

    service = load(config_path)
    set_up(service.logging, "snapshot")
    task = load_task(service, task_name)

    from evaluators.quarantine import released
    from registry.versions import Registry
    from trainer.snapshot import freeze
    from trainer.workbench import Workbench

    bench = Workbench.of(service, task)
    lake = open_lake(service)
    try:
        champion = Registry(service).champion(task.task).version
        made = freeze(
            lake,
            task,
            champion=champion,
            salt=heldout_salt(service),
            released=released(service, task.task),
            # Without rows the base model's tokenizer is not asked for.
            refuses=lambda row: bench.encoder.refuses(row),
        )
    finally:
        lake.close()
    if as_json:
        fields = ("snapshot_id", "task", "content_hash", "lake_snapshot", "counts")
        click.echo(json.dumps({name: getattr(made, name) for name in fields}, indent=2))
        return
    click.echo(made.snapshot_id)
    for side, counts in made.counts.items():
        rows = ", ".join(f"{number} {kind}" for kind, number in sorted(counts.items()))
        click.echo(f"  {side}: {rows or 'no rows'}")

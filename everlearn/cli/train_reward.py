"""`everlearn train reward edit`: another formula for the reward of an RFT that runs."""

from contextlib import closing

import click

from everlearn.cli import config_option


@click.command("edit")
@click.argument("task_name", metavar="TASK")
@click.argument("formula")
@config_option
def command(task_name: str, formula: str, config_path: str | None) -> None:
    """Grade the RFT of TASK that runs, on whatever machine, by FORMULA, over names of graders, from
    its next step on: "0.8*matches + 0.2*short". The task file stays as it is."""
    from everlearn.config import load
    from everlearn.errors import InputError
    from everlearn.state import open_state
    from everlearn.task import load_task
    from trainer.lock import under_way
    from trainer.rewarding import ask, edited

    service = load(config_path)
    task = load_task(service, task_name)
    edited(task, formula)
    run = under_way(service, task.task)
    if run["method"] not in ("rft", "auto"):
        raise InputError(f"task {task.task}: the training under way is by {run['method']}, not rft")
    with closing(open_state(service)) as state:
        ask(state, task.task, run["run_id"], formula)
    click.echo(f"{task.task}: run {run['run_id']} takes it at its next step: {formula}")

"""`everlearn train reward edit`: another formula for the reward of an RFT that runs."""

import click

from everlearn.cli import config_option


@click.command("edit")
@click.argument("task_name", metavar="TASK")
@click.argument("formula")
@config_option
def command(task_name: str, formula: str, config_path: str | None) -> None:
    """Grade the RFT of TASK that runs on this machine by FORMULA, over names of graders, from its
    next step on: "0.8*matches + 0.2*short". The task file stays as it is."""
    from everlearn.config import load
    from everlearn.errors import InputError
    from everlearn.task import load_task
    from trainer.lock import under_way
    from trainer.rewarding import ask, edited
    from trainer.workplace import Workplace

    service = load(config_path)
    task = load_task(service, task_name)
    edited(task, formula)
    run = under_way(service, task.task)
    folder = Workplace(service, task).folder
    if run["method"] not in ("rft", "auto") or not folder.is_dir():
        raise InputError(
            f"task {task.task}: the training under way is by {run['method']}, not rft, or has not "
            "begun yet"
        )
    ask(folder, formula)
    click.echo(f"{task.task}: run {run['run_id']} takes it at its next step: {formula}")

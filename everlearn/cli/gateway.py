"""`everlearn gateway`: the OpenAI-compatible door."""

import click

from everlearn.cli import config_option


@click.command("gateway")
@config_option
def command(config_path: str | None) -> None:
    """Run the gateway: answers users, captures what happened; SIGTERM drains."""
    from everlearn.config import load
    from everlearn.process_log import set_up
    from everlearn.task import running_tasks

    service = load(config_path)
    set_up(service.logging, "gateway")
    tasks = running_tasks(service)
    from gateway.main import run

    run(service, tasks)

"""`everlearn gateway`: the OpenAI-compatible door."""

import click

from everlearn.cli import config_option


@click.command("gateway")
@config_option
def command(config_path: str | None) -> None:
    """Run the gateway: answers users, captures what happened; SIGTERM drains."""
    import logging

    from everlearn.config import load
    from everlearn.task import running_tasks

    service = load(config_path)
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s %(message)s")
    tasks = running_tasks(service)
    from gateway.main import run

    run(service, tasks)

"""`everlearn collect`: events into the lake, until stopped."""

import click

from everlearn.cli import config_option


@click.command("collect")
@click.option("--once", is_flag=True, help="Stop when everything that is there now is stored.")
@config_option
def command(once: bool, config_path: str | None) -> None:
    """Move events into the lake."""
    from collector.process import run
    from everlearn.config import load
    from everlearn.process_log import set_up

    service = load(config_path)
    set_up(service.logging, "collector")
    run(service, once=once)

"""`everlearn collect`: events into the lake, until stopped."""

import click

from everlearn.cli import config_option


@click.command("collect")
@click.option("--once", is_flag=True, help="Stop when everything that is there now is stored.")
@config_option
def command(once: bool, config_path: str | None) -> None:
    """Move events into the lake."""
    import logging

    from collector.process import run
    from everlearn.config import load

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    run(load(config_path), once=once)

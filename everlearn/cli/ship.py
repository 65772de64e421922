"""`everlearn ship`: WAL records to Kafka, until stopped."""

import click

from everlearn.cli import config_option


@click.command("ship")
@config_option
def command(config_path: str | None) -> None:
    """Move WAL records to Kafka; what is acknowledged there is freed here."""
    import logging

    from collector.process import ship
    from everlearn.config import load

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    ship(load(config_path))

"""`everlearn ship`: WAL records to Kafka, until stopped."""

import click

from everlearn.cli import config_option


@click.command("ship")
@config_option
def command(config_path: str | None) -> None:
    """Move WAL records to Kafka; what is acknowledged there is freed here."""
    from collector.process import ship
    from everlearn.config import load
    from everlearn.process_log import set_up

    service = load(config_path)
    set_up(service.logging, "shipper")
    ship(service)

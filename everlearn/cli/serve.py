"""`everlearn serve`: the local model server."""

import click

from everlearn.cli import config_option


@click.command("serve")
@config_option
def command(config_path: str | None) -> None:
    """Run the local model server: OpenAI's routes, LoRA adapters loaded at run time."""
    import logging

    from everlearn.config import load

    service = load(config_path)
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s %(message)s")
    from serving.local.server import run

    run(service)

"""`everlearn console`: the operator's and labeller's web page."""

import click

from everlearn.cli import config_option


@click.command("console")
@config_option
def command(config_path: str | None) -> None:
    """Serve the console at the address of the config."""
    import uvicorn

    from console.app import create_app
    from everlearn.config import load

    service = load(config_path)
    address = service.console
    uvicorn.run(create_app(service), host=address.host, port=address.port, log_level="warning")

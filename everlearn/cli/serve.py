"""`everlearn serve`: the local model server."""

import click

from everlearn.cli import config_option


@click.command("serve")
@config_option
def command(config_path: str | None) -> None:
    """Run the local model server: OpenAI's routes, LoRA adapters loaded at run time."""
    from everlearn.config import load
    from everlearn.errors import ConfigError
    from everlearn.ports import must_be_free
    from everlearn.process_log import set_up

    service = load(config_path)
    set_up(service.logging, "model-server")
    if not service.model_server.model:
        raise ConfigError("model_server.model is empty; name a folder or a hub id of a model")
    must_be_free(service.model_server.host, service.model_server.port, "model_server.port")
    from serving.local.server import run

    run(service)

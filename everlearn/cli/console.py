"""`everlearn console`: the operator's and labeller's web page."""

import click

from everlearn.cli import config_option


@click.command("console")
@config_option
def command(config_path: str | None) -> None:
    """Serve the console at the address of the config."""
    from everlearn.config import config_file, load
    from everlearn.ports import must_be_free
    from everlearn.process_log import set_up

    service = load(config_path)
    set_up(service.logging, "console")
    address = service.console
    must_be_free(address.host, address.port, "console.port")

    import uvicorn

    from console.app import create_app
    from everlearn.metrics import answer_prometheus

    app = create_app(service, config=config_file(config_path).resolve())
    answer_prometheus(
        service, "console.metrics_port", address.metrics_port, app.state.metrics.registry
    )
    click.echo(f"console: http://{address.host}:{address.port}/?token={app.state.token}")
    # the token of an address must not stand in a log: AccessLog tells of requests
    uvicorn.run(
        app,
        host=address.host,
        port=address.port,
        log_config=None,
        log_level="warning",
        access_log=False,
        # open pages listen for news without end
        timeout_graceful_shutdown=3,
    )

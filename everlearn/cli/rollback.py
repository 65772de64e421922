"""`everlearn rollback`: all traffic back to the champion before."""

import click

from everlearn.cli import config_option, json_option


@click.command("rollback")
@click.argument("task")
@click.option(
    "--to",
    metavar="VERSION",
    help="A former champion (`release show` lists them); default: the one before.",
)
@click.option("--reason", default="rolled back by an operator", show_default=True)
@click.option(
    "--expect",
    metavar="STANDING",
    help="Only while the traffic stands at CHAMPION, or CHAMPION/RELEASE while one runs.",
)
@json_option
@config_option
def command(
    task: str,
    to: str | None,
    reason: str,
    expect: str | None,
    as_json: bool,
    config_path: str | None,
) -> None:
    """Move all traffic back: from a running release to its champion, else to the one before.

    A former champion answers again once its adapter is loaded and verified. The gateways follow
    within half a second; the registry's aliases are told by the release controller.
    """
    import json

    from everlearn.config import load
    from everlearn.task import load_task
    from serving.release.verbs import Desk

    service = load(config_path)
    traffic = Desk(service, load_task(service, task)).rollback(reason, to=to, expect=expect)
    champion = traffic.champion.version
    if as_json:
        click.echo(json.dumps({"task": task, "champion": champion, "reason": reason}))
    else:
        click.echo(f"{task}: version {champion} answers")

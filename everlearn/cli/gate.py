"""`everlearn gate`: the offline gate, with the comparison that decided."""

import click

from everlearn.cli import config_option, json_option

EXIT = {"passed": 0, "failed": 1, "inconclusive": 3}


@click.command("gate")
@click.argument("task")
@click.argument("version")
@json_option
@config_option
def command(task: str, version: str, as_json: bool, config_path: str | None) -> None:
    """Decide on held-out evidence whether VERSION deserves live traffic.

    Exit 0 passed, 1 failed, 3 not enough evidence.
    """
    import json
    import sys

    from everlearn.config import load
    from everlearn.task import load_task
    from registry.judgement import judge
    from registry.versions import Registry

    service = load(config_path)
    rules = load_task(service, task).gate
    verdict = judge(Registry(service), task, version, rules)
    if as_json:
        click.echo(json.dumps({"task": task, "version": version, **verdict._asdict()}))
    else:
        click.echo(f"{task} version {version}: {verdict.phase}: {verdict.reason}")
        for line in verdict.comparisons:
            click.echo(f"  {line}")
    sys.exit(EXIT[verdict.phase])

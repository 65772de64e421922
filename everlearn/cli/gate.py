"""`everlearn gate`: the exam at the door, with the comparison that decided."""

from collections.abc import Callable

import click

from everlearn.cli import config_option, json_option

EXIT = {"passed": 0, "failed": 1, "inconclusive": 3}


@click.command("gate")
@click.argument("task")
@click.argument("version")
@json_option
@config_option
def command(task: str, version: str, as_json: bool, config_path: str | None) -> None:
    """Examine VERSION at the door it would serve from: does it deserve live traffic?

    It is loaded and verified on the fleet; it and the champion, each at its own upstream, answer
    the gate rows over HTTP. Exit 0 passed, 1 failed, 3 not enough evidence.
    """
    import json
    import sys

    from everlearn.config import load
    from everlearn.lake.ducklake import open_lake
    from everlearn.process_log import set_up
    from everlearn.task import load_task
    from registry.judgement import judge
    from registry.page import describe, picture
    from registry.versions import Registry
    from serving.exam import examine
    from serving.release.verbs import Desk

    service = load(config_path)
    set_up(service.logging, "gate")
    declared = load_task(service, task)
    registry, desk = Registry(service), Desk(service, declared)
    lake = open_lake(service, read_only=True)
    try:
        evidence = examine(
            service,
            declared,
            registry,
            lake,
            version,
            traffic=desk.book.traffic(task),
            report=_progress(),
        )
    finally:
        desk.close()
    verdict = judge(registry, evidence, declared.gate, declared.release.margin)
    picture(registry, registry.get(task, version), evidence, verdict)
    describe(service, registry, lake, task, version)
    if as_json:
        click.echo(json.dumps({"task": task, "version": version, **verdict._asdict()}))
    else:
        click.echo(f"{task} version {version}: {verdict.phase}: {verdict.reason}")
        for line in verdict.comparisons:
            click.echo(f"  {line}")
    sys.exit(EXIT[verdict.phase])


def _progress() -> Callable[[int, int], None]:
    """On a terminal one line that counts, else a line per quarter; on stderr."""
    import sys

    terminal = sys.stderr.isatty()

    def report(done: int, rows: int) -> None:
        text = f"exam: {done} of {rows} rows"
        if terminal:
            click.echo(f"\r{text}", nl=done == rows, err=True)
        elif done == rows or done % max(1, rows // 4) == 0:
            click.echo(text, err=True)

    return report

"""`everlearn demo`: the whole loop on examples/text2sql, promotion and rollback included."""

import click

from everlearn.cli import config_option


@click.command("demo")
@click.option("--fast", is_flag=True, help="The short form for continuous integration.")
@click.option("--day", is_flag=True, help="The full stack for half an hour: nobody types a verb.")
@click.option(
    "--report",
    default="report.html",
    show_default=True,
    type=click.Path(dir_okay=False),
    help="Where to write the report.",
)
@config_option
def command(fast: bool, day: bool, report: str, config_path: str | None) -> None:
    """Serve, capture, judge, learn, gate, ramp, promote - and roll a bad version back.

    Without --config it is the example's own config, wherever it is run, and its own data folder.
    """
    import os
    import sys
    from pathlib import Path

    from everlearn.config import load
    from everlearn.errors import InputError

    checkout = Path(__file__).parents[2]
    if not (checkout / "examples" / "text2sql").is_dir():
        raise InputError(f"{checkout} holds no examples/text2sql: run the demo from a checkout")
    usual = checkout / ("examples/text2sql/day/everlearn.yaml" if day else "everlearn.yaml")
    config = Path(config_path or os.environ.get("EVERLEARN_CONFIG") or usual)
    data = load(config).data_path
    sys.path.insert(0, str(checkout))
    from examples.text2sql import loop

    folder = loop.own_folder(data)
    # The processes that it starts read it too.
    os.environ["EVERLEARN_DATA_DIR"] = str(folder)
    click.echo(f"data: {folder}; look around with EVERLEARN_DATA_DIR={folder} everlearn status")
    service, path, page = load(config), config.resolve(), Path(report).resolve()
    if day:
        from examples.text2sql.day.run import run

        sys.exit(0 if run(service, path, report_path=page, say=click.echo) else 1)
    sys.exit(0 if loop.run(service, path, fast=fast, report_path=page, say=click.echo) else 1)

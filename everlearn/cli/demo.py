"""`everlearn demo`: the whole loop on examples/text2sql, promotion and rollback included."""

import click

from everlearn.cli import config_option


@click.command("demo")
@click.option("--fast", is_flag=True, help="The short form for continuous integration.")
@click.option(
    "--report",
    default="report.html",
    show_default=True,
    type=click.Path(dir_okay=False),
    help="Where to write the report.",
)
@config_option
def command(fast: bool, report: str, config_path: str | None) -> None:
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
    sys.path.insert(0, str(checkout))
    from examples.text2sql.loop import own_folder, run

    config = Path(config_path or os.environ.get("EVERLEARN_CONFIG") or checkout / "everlearn.yaml")
    folder = own_folder(load(config).data_path)
    # The processes that it starts read it too.
    os.environ["EVERLEARN_DATA_DIR"] = str(folder)
    click.echo(f"data: {folder}; look around with EVERLEARN_DATA_DIR={folder} everlearn status")
    closed = run(
        load(config),
        config.resolve(),
        fast=fast,
        report_path=Path(report).resolve(),
        say=click.echo,
    )
    sys.exit(0 if closed else 1)

"""`everlearn maintain`: compacts the lake and expires old snapshots."""

import click

from everlearn.cli import config_option, json_option


@click.command("maintain")
@click.option(
    "--keep-hours",
    type=click.FloatRange(0),
    default=24.0,
    show_default=True,
    help="Age of snapshots to keep.",
)
@json_option
@config_option
def command(keep_hours: float, as_json: bool, config_path: str | None) -> None:
    """Merge small files, expire old snapshots, delete files that nothing names."""
    import json

    from collector.compact import maintain
    from everlearn.config import load
    from everlearn.lake.ducklake import open_lake
    from everlearn.process_log import set_up

    service = load(config_path)
    set_up(service.logging, "maintain")
    done = maintain(open_lake(service), keep_hours)
    if as_json:
        click.echo(json.dumps(done))
    else:
        click.echo("  ".join(f"{name} {count}" for name, count in done.items()))

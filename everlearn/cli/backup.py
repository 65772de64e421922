"""`everlearn backup`: a copy of the data folder, taken while everything runs."""

from pathlib import Path

import click

from everlearn.cli import config_option, json_option


@click.command("backup")
@click.argument("folder", type=click.Path(path_type=Path))
@json_option
@config_option
def command(folder: Path, as_json: bool, config_path: str | None) -> None:
    """Copy the data folder to FOLDER, from which `data_dir: FOLDER` goes on."""
    import json

    from everlearn.backup import backup, elsewhere
    from everlearn.config import load

    service = load(config_path)
    copied, missing = backup(service, folder), elsewhere(service)
    if as_json:
        click.echo(json.dumps({**copied._asdict(), "elsewhere": missing}))
        return
    click.echo(f"{folder}: {copied.files} files, {copied.bytes / 1e6:.1f} MB")
    for name, place in missing.items():
        click.echo(f"  not in it: {name} ({place}); docs/operations.md says how to copy that")

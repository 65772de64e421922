"""`everlearn keys create|list|revoke`: client keys in the state store."""

import json
import time
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import click

from everlearn.cli import config_option, json_option

ROLES = ("client", "expert", "judge", "service", "viewer", "operator")
"""As `config.Role`, which takes too long to import for a list of options."""


@click.group("keys")
def command() -> None:
    """Give, list and take back client keys; running gateways follow within two seconds."""


@command.command()
@click.option(
    "--name", "--id", "key_id", required=True, help="Whose it is; stands in the lake, not the key."
)
@click.option(
    "--role",
    type=click.Choice(ROLES),
    default="client",
    show_default=True,
    help="As whom it may speak: experts teach, users suggest.",
)
@click.option(
    "--may-speak-for",
    type=click.Choice(["users"]),
    help="For an application's server, which passes on its users' ids; never for a browser.",
)
@click.option(
    "--task", "--tasks", "tasks", multiple=True, metavar="A,B", help="Allowed tasks; default: all."
)
@click.option("--requests-per-minute", type=click.IntRange(0), default=0, help="0 = no limit.")
@click.option("--tokens-per-minute", type=click.IntRange(0), default=0, help="0 = no limit.")
@click.option("--max-concurrent", type=click.IntRange(0), default=0, help="0 = no limit.")
@json_option
@config_option
def create(
    key_id: str,
    role: str,
    may_speak_for: str | None,
    tasks: tuple[str, ...],
    as_json: bool,
    config_path: str | None,
    **limits: int,
) -> None:
    """Make a key and print it, this once: only its SHA-256 is kept."""
    from everlearn.config import load
    from everlearn.errors import InputError
    from everlearn.keys import create_key, stored_keys
    from everlearn.state import open_state
    from everlearn.task import read_tasks

    service = load(config_path)
    if any(key.id == key_id for key in service.gateway.keys):
        raise InputError(f"key {key_id}: stands in the config already")
    allowed = [name.strip() for name in ",".join(tasks).split(",") if name.strip()]
    known = read_tasks(service).tasks
    unknown = [name for name in allowed if name not in known]
    if unknown:
        raise InputError(f"--task {','.join(unknown)}: no such task; there are {', '.join(known)}")
    with closing(open_state(service)) as state:
        first = not service.gateway.keys and not stored_keys(state)[0]
        key = create_key(
            state,
            time.time(),
            id=key_id,
            role=role,
            may_speak_for=may_speak_for,
            tasks=allowed,
            **limits,
        )
    if as_json:
        click.echo(json.dumps({"id": key_id, "key": key}))
        return
    click.echo(key)
    if service.gateway.require_key is False:
        click.echo("gateway.require_key is false: requests without a key pass too", err=True)
    elif first and not service.gateway.require_key:
        click.echo(
            "this is the first key: from now on the gateway answers 401 to whoever sends none "
            "(gateway.require_key)",
            err=True,
        )


@command.command("list")
@json_option
@config_option
def list_(as_json: bool, config_path: str | None) -> None:
    """Every key of the config and of the state store, revoked ones too; never the key itself."""
    from everlearn.config import load
    from everlearn.keys import stored_keys
    from everlearn.state import open_state

    service = load(config_path)
    with closing(open_state(service)) as state:
        stored, unreadable = stored_keys(state)
    rows: list[dict[str, Any]] = [
        {"source": "config", **key.model_dump(exclude={"sha256"}, mode="json")}
        for key in service.gateway.keys
    ]
    rows += [
        {"source": "store", **key.model_dump(exclude={"sha256"}, mode="json")} for key in stored
    ]
    if as_json:
        click.echo(json.dumps(rows))
    else:
        click.echo("\n".join(map(_line, rows)) or "no keys")
    for line in unreadable:
        click.echo(line, err=True)


@command.command()
@click.argument("key_id", metavar="ID")
@config_option
def revoke(key_id: str, config_path: str | None) -> None:
    """Take a key back; requests in flight finish. The last key's end opens no door."""
    from everlearn.config import load
    from everlearn.keys import revoke_key
    from everlearn.state import open_state

    with closing(open_state(load(config_path))) as state:
        revoke_key(state, key_id, time.time())
    click.echo(f"{key_id}: revoked")


def _line(row: dict[str, Any]) -> str:
    limits = [
        f"{row[name]} {name.replace('_', ' ')}"
        for name in ("requests_per_minute", "tokens_per_minute", "max_concurrent")
        if row[name]
    ]
    speaks = ["speaks for users"] if row["may_speak_for"] else []
    parts = [
        row["id"],
        row["source"],
        row["role"],
        *speaks,
        f"tasks {', '.join(row['tasks']) or 'all'}",
        *limits,
    ]
    if row.get("revoked_at") is not None:
        at = datetime.fromtimestamp(row["revoked_at"], UTC)
        parts.append(f"revoked {at:%Y-%m-%d %H:%M} UTC")
    return "  ".join(parts)

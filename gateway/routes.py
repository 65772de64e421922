"""`routes.json`: which versions answer a task and with what share.

Written by serving, read by the gateway.

The file is swapped by rename, so a reader sees the old or the new table, never half of one.
"""

import os
import tempfile
from pathlib import Path

import msgspec


class ArmRoute(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One version that may answer."""

    version: str
    """Registry version, or `base`."""
    model: str
    """Model name at the upstream: the adapter's, or the base model's."""
    upstream: str | None = None
    """Upstream of the config that serves it; None: the task's."""
    adapter_digest: str | None = None
    template_hash: str | None = None


class TaskRoute(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The arms of one task and their shares."""

    champion: ArmRoute
    challenger: ArmRoute | None = None
    holdback: ArmRoute | None = None
    release: str | None = None
    """Salt of the assignment hash: units are reshuffled by the next release."""
    stage: int | None = None
    challenger_share: float = 0.0
    """Of the units not held back, 0 to 1. As it grows, a unit on the challenger stays there."""
    holdback_share: float = 0.0
    """Of all units, 0 to 1; chosen by a hash of task and unit that no release changes."""
    shadow_share: float = 0.0
    """Of requests whose copy goes to the challenger; the user never waits for it."""


class Routes(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The whole table; a task that is not in it is answered by its base model."""

    generation: int = 0
    tasks: dict[str, TaskRoute] = {}


def read_routes(path: Path) -> Routes:
    """The table, empty if there is no file yet; msgspec.ValidationError on a bad one."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Routes)
    except FileNotFoundError:
        return Routes()


def write_routes(path: Path, routes: Routes) -> None:
    """Swap the table: temp name, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".routes-")
    with os.fdopen(handle, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(routes), indent=2))
        file.flush()
        os.fsync(file.fileno())
    os.replace(name, path)

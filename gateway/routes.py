"""`routes.json`: which versions answer a task and with what share.

Written by serving, and where the state store is a server's (several hosts) by each gateway after
it; read by the gateway.

- The file is swapped by rename, so a reader sees the old or the new table, never half of one.
- In the store a task's route stands in its traffic document, under `route`.
"""

import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec

from everlearn.rules import Unit

KIND = "traffic"
"""Of the documents in the state store, by task."""
MAX_BYTES = 4 * 2**20
"""Of the file: room for thousands of tasks. A larger one is none of ours."""
_Word = Annotated[str, msgspec.Meta(min_length=1, max_length=256, pattern=r"^[!-~]+\Z")]
"""Stands in headers."""
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=512, pattern=r"^[^\x00-\x1f\x7f]+\Z")]
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class ArmRoute(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One version that may answer."""

    version: _Word
    """Registry version, or `base`."""
    model: _Name
    """Model name at the upstream: the adapter's, or the base model's."""
    upstream: _Name | None = None
    """Upstream of the config that serves it; None: the task's."""
    adapter_digest: _Word | None = None
    template_hash: _Word | None = None


class TaskRoute(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The arms of one task and their shares."""

    champion: ArmRoute
    challenger: ArmRoute | None = None
    challengers: tuple[ArmRoute | None, ...] = ()
    """Of a release of several, instead of `challenger` (all that older gateways know): each has an
    equal part of `challenger_share`. None: dropped, the champion answers its part."""
    holdback: ArmRoute | None = None
    release: _Name | None = None
    """Salt of the assignment hash: units are reshuffled by the next release."""
    stage: int | None = None
    unit: Unit | None = None
    """Who is drawn; None: the user, and the draw is not kept (releases of older versions)."""
    epoch_seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """After which a unit that returns is drawn anew; 0: never."""
    since: float = 0.0
    """Unix seconds from which epochs are counted."""
    challenger_share: _Share = 0.0
    """Of the units not held back, 0 to 1. As it grows, a unit on the challenger stays there; of
    several it is the share of all together."""
    holdback_share: _Share = 0.0
    """Of all units, 0 to 1; chosen by a hash of task and unit that no release changes."""
    watch_share: _Share = 0.0
    """Of the units not held back that the holdback answers too while a promotion is watched: drawn
    anew at each stage, so that who comes every day is a new unit every day."""
    shadow_share: _Share = 0.0
    """Of requests whose copy goes to the challenger; the user never waits for it."""


class Routes(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The whole table; a task that is not in it is answered by its base model."""

    generation: int = 0
    tasks: dict[str, TaskRoute] = {}


def read_routes(path: Path) -> Routes:
    """The table, empty if there is no file yet; msgspec.ValidationError or ValueError on a bad one.

    Never waits: a pipe is no file, and a file too large is not read.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return Routes()
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ValueError("not a regular file")
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES} bytes")
    return msgspec.json.decode(content, type=Routes)


def write_routes(path: Path, routes: Routes, *, sync: bool = True) -> None:
    """Swap the table: temp name, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".routes-")
    with os.fdopen(handle, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(routes), indent=2))
        file.flush()
        if sync:
            os.fsync(file.fileno())
    os.replace(name, path)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Nobody else swaps routes meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def swap(path: Path, found: Mapping[str, TaskRoute]) -> bool:
    """Put these tasks' routes in, others' untouched; False if they stood there already. To be
    called `alone`."""
    table = read_routes(path)
    tasks = {**table.tasks, **found}
    if tasks == table.tasks:
        return False
    write_routes(path, Routes(generation=table.generation + 1, tasks=tasks))
    return True

"""A copy of a data folder from which everything goes on, taken while everything runs.

`backup` copies in this order, so that nothing falls between:
1. the gateways' logs: they hold whatever the lake does not have yet, and of each the counters
   first, so that no event is promised that the copy lacks;
2. the SQLite files (the lake's catalog, state, MLflow, Airflow), each as of one moment, by SQLite;
3. the files that those name - Parquet, adapters, artifacts - which are written once.

- The copied logs are sealed: read, never written to. A gateway on the copy begins one of its own,
  for the lake may hold numbers that its counters do not know yet.
- The copy stands there whole or not at all; every file that its lake names is there.
- What the config keeps elsewhere (Postgres, S3, Kafka) is not in it: `elsewhere` says what.
"""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from everlearn.config import LakeConfig, Service
from everlearn.errors import InputError, LakeError
from everlearn.lake.columns import TABLES
from everlearn.lake.ducklake import DuckLake
from everlearn.log.identity import SEALED
from everlearn.redact import without_passwords

LEFT_OUT = {"logs", "run", "kafka", "console.token", "wal"}
"""Of this machine or of this start, and the logs, which come first."""
ENDS = (".lock", "-wal", "-shm", "-journal", ".part")
SQLITE = b"SQLite format 3\0"


class Copied(NamedTuple):
    """What a back-up holds."""

    files: int
    bytes: int


def backup(service: Service, target: Path) -> Copied:
    """Copy the data folder to `target`, which must not exist or be empty."""
    source, target = service.data_path, target.absolute()
    if not source.is_dir():
        raise InputError(f"data_dir {source}: no such folder, nothing to copy")
    if target.is_relative_to(source):
        raise InputError(f"{target} lies in the data folder {source}: name a folder outside it")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} exists: name a folder that does not, or an empty one")
    scratch = target.with_name(f".{target.name}.part")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True, mode=0o700)
    _copy_logs(source / "wal", scratch / "wal")
    found = list(_files(source))
    databases = [path for path in found if _is_sqlite(path)]
    for path in databases:
        _copy_database(path, scratch / path.relative_to(source))
    # Looked for anew: the catalog names what was written until then.
    for path in set(_files(source)) - set(databases):
        _copy(path, scratch / path.relative_to(source))
    if not service.lake.catalog and not service.lake.data_path:
        _check(scratch)
    if target.exists():
        target.rmdir()
    scratch.rename(target)
    sizes = [path.stat().st_size for path in target.rglob("*") if path.is_file()]
    return Copied(len(sizes), sum(sizes))


def elsewhere(service: Service) -> dict[str, str]:
    """By setting, what is kept outside the data folder."""
    named = {
        "lake.catalog": service.lake.catalog,
        "lake.data_path": service.lake.data_path,
        "state.url": service.state.url,
        "mlflow.artifacts_path": service.mlflow.artifacts_path,
        "bus": ", ".join(service.bus.bootstrap_servers) if service.bus.kind == "kafka" else "",
    }
    return {name: without_passwords(place) for name, place in named.items() if place}


def _files(source: Path) -> Iterator[Path]:
    for top in sorted(source.iterdir()):
        if top.name in LEFT_OUT:
            continue
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.is_file() and not path.name.endswith(ENDS):
                yield path


def _is_sqlite(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(SQLITE)) == SQLITE
    except FileNotFoundError:
        return False


def _copy_logs(source: Path, target: Path) -> None:
    for folder in sorted(source.glob("gw-*")):
        home = target / folder.name
        home.mkdir(parents=True)
        (home / SEALED).touch()
        first = [folder / name for name in ("identity", "counters")]
        rest = [path for path in sorted(folder.iterdir()) if path.name != "lock"]
        for path in [*first, *(path for path in rest if path not in first)]:
            _copy(path, home / path.name)


def _copy_database(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as here, closing(sqlite3.connect(target)) as there:
        here.backup(there)
    target.chmod(path.stat().st_mode & 0o777)


def _copy(path: Path, target: Path) -> None:
    """A file that was deleted meanwhile is none that the copy needs; `_check` sees to it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copy2(path, target)
    except FileNotFoundError:
        target.unlink(missing_ok=True)


def _check(folder: Path) -> None:
    """LakeError where the copied catalog names a file that is not in the copy."""
    if not (folder / "lake").exists():
        return
    with closing(DuckLake(LakeConfig(), folder, read_only=True)) as lake:
        for table in TABLES:
            rows = lake.read(f"FROM ducklake_list_files('lake', '{table.name}')").to_pylist()
            named = {row[key] for row in rows for key in ("data_file", "delete_file") if row[key]}
            gone = sorted(name for name in named if not os.path.exists(name))
            if gone:
                raise LakeError(
                    f"{gone[0]}: compacted away while it was copied; run the back-up again"
                )

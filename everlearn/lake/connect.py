"""DuckDB as the lake needs it: its extensions and the bucket's secret; and the locks that keep
SQLite's log of a catalog from being deleted under whoever comes next."""

import fcntl
import os
import struct
from pathlib import Path

import duckdb

from everlearn.config import LakeConfig
from everlearn.lake.extensions import connect_with

OPEN_DATABASE, OPEN_INDEX = (0x40000002, 510), (128, 1)
"""Bytes that SQLite locks while a database is open, and in the index of its log: start, length."""


def connect(config: LakeConfig, kind: str, data: str) -> duckdb.DuckDBPyConnection:
    """A database that can attach a lake of that kind of catalog; LakeError without the packages."""
    names = ["ducklake"]
    names += {"sqlite": ["sqlite_scanner"], "postgres": ["postgres_scanner"]}.get(kind, [])
    remote = data.startswith("s3://")
    names += ["httpfs"] if remote else []
    connection = connect_with(names)
    # Times are answered in UTC wherever the process runs.
    connection.execute("SET TimeZone = 'UTC'")
    if remote:
        connection.execute(_secret(config))
    return connection


def _secret(config: LakeConfig) -> str:
    fields = {
        "KEY_ID": os.environ.get(config.s3_key_id_env, ""),
        "SECRET": os.environ.get(config.s3_secret_env, ""),
        "REGION": config.s3_region,
    }
    if config.s3_endpoint:
        fields["ENDPOINT"] = config.s3_endpoint.split("//")[-1]
        fields["URL_STYLE"] = "path"
    values = ", ".join(f"{key} {quoted(value)}" for key, value in fields.items())
    ssl = "true" if config.s3_use_ssl else "false"
    return f"CREATE SECRET lake_s3 (TYPE s3, {values}, USE_SSL {ssl})"


def holds_files(data: str) -> bool:
    """Whether the catalog's files, which it names relative to their folder, may stand here now; a
    catalog whose files are elsewhere is refused, it would find none of them."""
    return "://" not in data and Path(data).is_dir() and any(Path(data).iterdir())


def quoted(text: str) -> str:
    """As SQL writes a text."""
    return "'" + text.replace("'", "''") + "'"


def hold(path: str, start: int, length: int) -> int:
    """A handle that holds a shared lock of the open file (OFD) on these bytes. It outlives what
    DuckDB closes in this process, as SQLite's own locks would not."""
    handle = os.open(path, os.O_RDONLY)
    lock = struct.pack("hhqqixxxx", fcntl.F_RDLCK, os.SEEK_SET, start, length, 0)
    try:
        fcntl.fcntl(handle, fcntl.F_OFD_SETLK, lock)
    except OSError:
        os.close(handle)
        raise
    return handle

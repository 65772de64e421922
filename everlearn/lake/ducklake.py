"""The lake: DuckLake over a SQLite or Postgres catalog, Parquet in a folder or on S3.

- One transaction at a time writes; a locked catalog or a conflict repeats the whole work.
- Rows below the inlining limit stand in the catalog until `compact`, so that a small commit costs
  no file. Measured on 2 cores over SQLite: commit of 100 completions 30-45 ms; a read 10-25 ms
  after 1,000 commits when compacted every 50, 150 ms and growing without.
- Reads are repeatable: over SQLite DuckDB reads the list of files and the inlined rows in two
  transactions of the catalog, so a flush between them took rows away from whoever was reading
  (measured: 8 of 16 compactions beside one reader). There a flush waits for the reads that run and
  holds the next ones back: `turns.py`. Postgres reads both in one snapshot and needs none of it.
- Measured: without `journal_mode=WAL` in the SQLite catalog any open reader blocks every commit.
- Measured at 500 rows/s with a reader beside: a row is queryable after 0.6 s (p99) with the locks
  that `_stay` holds, after 1.4 to 2.4 s without.
"""

import fcntl
import hashlib
import os
import random
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from threading import RLock
from typing import Any, TypeVar

import duckdb
import pyarrow as pa

from everlearn.config import LakeConfig, Service
from everlearn.errors import LakeError
from everlearn.lake.columns import FEEDBACK
from everlearn.lake.connect import OPEN_DATABASE, OPEN_INDEX, connect, hold, holds_files, quoted
from everlearn.lake.schema import SQL_TYPES, VIEWS, ddl
from everlearn.lake.targets import OPEN_ALL, Targets
from everlearn.lake.transaction import SPECS, DuckTransaction
from everlearn.lake.turns import Turns
from everlearn.redact import without_passwords

T = TypeVar("T")

INLINE_ROWS = 20
"""Inserts of up to so many rows stand in the catalog: 3 KB each there."""
RETRY_SECONDS = 30.0
"""How long a commit is repeated before it is given up."""

APPENDED = {"parquet_compression": "uncompressed", "parquet_row_group_size": "4096"}
"""How completions are appended: plain, 4 us per row of 2 KB and not 12 as with zstd, and in groups
that are written while they are still in the processor's cache: 4 us less than all in one."""
MERGED = {"parquet_compression": "zstd", "parquet_row_group_size": "122880"}
"""How compaction writes them: 1.1 KB per row and not 3."""

VIEW_HASHES = {
    name: hashlib.sha256(query.encode()).hexdigest()[:16] for name, (_, query) in VIEWS.items()
}
_RETRIED = ("database is locked", "conflict", "busy", "could not serialize")


class DuckLake:
    """An attached lake; safe to use from several threads."""

    def __init__(
        self,
        config: LakeConfig,
        folder: Path,
        read_only: bool = False,
        threads: int | None = None,
    ) -> None:
        self._catalog = config.catalog or f"sqlite:{folder / 'lake' / 'catalog.sqlite'}"
        self._shown = without_passwords(self._catalog)
        self._read_only = read_only
        self._lock = RLock()
        kind, _, place = self._catalog.partition(":")
        data = config.data_path or str(folder / "lake" / "data")
        self._moves = kind == "sqlite" and not config.data_path
        """Catalog and files stand in one folder: wherever that is now, they belong together."""
        if kind == "sqlite":
            Path(place).parent.mkdir(parents=True, exist_ok=True)
        self._gate = Path(f"{place}.lock") if kind == "sqlite" else None
        self._turns = Turns(Path(place)) if kind == "sqlite" else None
        self._held: list[int] = []
        self._targets = Targets()
        self._connection = connect(config, kind, data)
        if threads is not None:
            self._connection.execute(f"SET threads = {threads}")
        if read_only and self._attach_to_read(data):
            return
        self._attach(data)
        if not self._is_complete():
            self._create()
        if read_only:
            self._connection.execute("DETACH lake")
            self._attach(data, "READ_ONLY")

    def read(self, sql: str, params: Sequence[Any] = ()) -> pa.Table:
        """Run one query; LakeError with the reason when it cannot."""
        deadline = time.monotonic() + RETRY_SECONDS
        with self._turns.reading() if self._turns else nullcontext():
            return self._retried(lambda: self._run(sql, params), deadline)

    def commit(self, work: Callable[[DuckTransaction], T]) -> T:
        """Run `work` in one transaction; repeated as a whole on a locked catalog or a conflict."""
        if self._read_only:
            raise LakeError(f"{self._shown}: opened for reading only")
        deadline = time.monotonic() + RETRY_SECONDS
        with self._lock:
            return self._retried(lambda: self._transact(work, deadline), deadline)

    def snapshot_id(self) -> int:
        """The newest lake snapshot: `read` can be frozen with `AT (VERSION => id)`."""
        table = self.read("SELECT id FROM ducklake_current_snapshot('lake')")
        snapshot: int = table["id"][0].as_py()
        return snapshot

    def call(self, sql: str) -> int:
        """Run one of DuckLake's maintenance functions, return how many rows it answered."""
        deadline = time.monotonic() + RETRY_SECONDS
        with self._lock, self._alone(deadline):
            return self._retried(lambda: self._count(sql), deadline)

    def flush(self, table: str, patience_seconds: float) -> bool:
        """Write a table's inlined rows to a file; False when reads kept it from its turn."""
        with self._turns.alone(patience_seconds) if self._turns else nullcontext(True) as alone:
            if alone:
                self.call(f"CALL ducklake_flush_inlined_data('lake', table_name => '{table}')")
        return alone

    def vacuum(self) -> None:
        """Bytes of deleted rows leave a catalog in SQLite; Postgres does so by itself."""
        if self._gate is None:
            return
        deadline = time.monotonic() + RETRY_SECONDS
        catalog = str(self._gate.with_suffix(""))
        with self._lock, self._alone(deadline):
            connection = sqlite3.connect(catalog, timeout=RETRY_SECONDS, isolation_level=None)
            try:
                connection.execute("VACUUM")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            except sqlite3.Error as error:
                raise LakeError(f"{self._shown}: not vacuumed: {error}; try again") from error
            finally:
                connection.close()

    def waiting_files(self) -> int:
        """Files that nothing names any more and that are not deleted yet."""
        sql = "CALL ducklake_cleanup_old_files('lake', cleanup_all => true, dry_run => true)"
        return self.call(sql)

    def find_targets(self) -> int:
        """Look in everything for what waits for its completion, so much of it as one transaction
        may hold; how much that was."""
        return self.commit(lambda transaction: transaction.find_targets())

    def write_files(self, options: Mapping[str, str]) -> None:
        """Write the completions' files like this from now on."""
        for name, value in options.items():
            self.call(f"CALL lake.set_option('{name}', '{value}', table_name => 'completions')")

    def close(self) -> None:
        """Detach."""
        if self._held:
            while self._held:
                os.close(self._held.pop())
            # Whoever leaves as the last one folds SQLite's log into the catalog.
            with suppress(duckdb.Error):
                self._connection.execute("FROM ducklake_current_snapshot('lake')").fetchall()
        self._connection.close()

    def _count(self, sql: str) -> int:
        # Asking these functions for an Arrow result crashes DuckDB 1.5.5.
        cursor = self._connection.cursor()
        try:
            cursor.execute("USE lake")
            return len(cursor.execute(sql).fetchall())
        finally:
            cursor.close()

    def _run(self, sql: str, params: Sequence[Any]) -> pa.Table:
        cursor = self._connection.cursor()
        try:
            cursor.execute("USE lake")
            return cursor.execute(sql, list(params)).to_arrow_table()
        finally:
            cursor.close()

    def _transact(self, work: Callable[[DuckTransaction], T], deadline: float) -> T:
        with self._alone(deadline):
            cursor = self._connection.cursor()
            try:
                cursor.execute("USE lake")
                cursor.execute("BEGIN")
                transaction = DuckTransaction(cursor, self._targets)
                result = work(transaction)
                transaction.settle()
                cursor.execute("COMMIT")
                return result
            except BaseException:
                # A failed COMMIT has ended the transaction already.
                with suppress(duckdb.Error):
                    cursor.execute("ROLLBACK")
                raise
            finally:
                cursor.close()

    def _retried(self, work: Callable[[], T], deadline: float) -> T:
        wait = 0.01
        while True:
            try:
                return work()
            except duckdb.Error as error:
                if not _passes(error) or time.monotonic() > deadline:
                    # The error's own text names the catalog with its password.
                    reason = _reason(error)
                    raise LakeError(f"{self._shown}: {reason}") from type(error)(reason)
            time.sleep(random.uniform(wait / 2, wait))
            wait = min(wait * 2, 1.0)

    @contextmanager
    def _alone(self, deadline: float) -> Iterator[None]:
        """Queue the writers of a SQLite catalog: there a lost race costs a whole repetition."""
        if self._gate is None:
            yield
            return
        gate = os.open(self._gate, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            while time.monotonic() < deadline:
                with suppress(BlockingIOError):
                    fcntl.flock(gate, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                time.sleep(0.002)
            yield
        finally:
            os.close(gate)

    def _attach_to_read(self, data: str) -> bool:
        """False when there is no lake yet, or one that lacks a table or a view of ours."""
        if self._gate is not None and not self._gate.with_suffix("").exists():
            return False
        try:
            self._attach(data, "READ_ONLY")
        except LakeError as error:
            if "does not exist" in str(error):
                return False
            raise
        complete = self._is_complete()
        if not complete:
            self._connection.execute("DETACH lake")
        return complete

    def _attach(self, data: str, *more: str) -> None:
        options = [f"DATA_PATH {quoted(data)}", f"DATA_INLINING_ROW_LIMIT {INLINE_ROWS}", *more]
        if self._moves or holds_files(data):
            options.append("OVERRIDE_DATA_PATH true")
        if self._gate is not None:
            options += ["META_JOURNAL_MODE 'WAL'", "META_BUSY_TIMEOUT 2000"]
        sql = f"ATTACH {quoted('ducklake:' + self._catalog)} AS lake ({', '.join(options)})"
        deadline = time.monotonic() + RETRY_SECONDS
        with self._alone(deadline):
            self._retried(lambda: self._connection.execute(sql), deadline)
        if self._gate is not None:
            self._stay(str(self._gate.with_suffix("")))

    def _stay(self, catalog: str) -> None:
        """Hold the locks that SQLite holds while a catalog is open.

        DuckDB opens the catalog for every transaction. Whoever leaves as the last one deletes
        SQLite's log and its index, and who comes meanwhile sleeps a whole second, as that build of
        SQLite knows no shorter sleep. With somebody who stays, nobody is the last.
        """
        if self._held or not hasattr(fcntl, "F_OFD_SETLK"):
            return
        with suppress(OSError):
            self._held.append(hold(catalog, *OPEN_DATABASE))
            # Makes the index, which then stays. An answer that is not fetched would keep its
            # transaction open, and SQLite's log growing, for as long as this process lives.
            sql = "FROM ducklake_current_snapshot('lake')"
            self._retried(
                lambda: self._connection.execute(sql).fetchall(), time.monotonic() + RETRY_SECONDS
            )
            self._held.append(hold(f"{catalog}-shm", *OPEN_INDEX))

    def _is_complete(self) -> bool:
        have = self._columns()
        tables = all(have.get(name, set()) >= set(spec.names) for name, spec in SPECS.items())
        return tables and self._views() == VIEW_HASHES

    def _create(self) -> None:
        """Create what is missing: tables, columns, views."""
        have = self._columns()

        def create(transaction: DuckTransaction) -> None:
            for name, spec in SPECS.items():
                transaction.run(ddl(spec))
                for column in spec.columns:
                    if column.name not in have.get(name, spec.names):
                        kind = SQL_TYPES[column.kind]
                        transaction.run(f'ALTER TABLE {name} ADD COLUMN "{column.name}" {kind}')
            if "target" not in have.get(FEEDBACK.name, {"target"}):
                transaction.run(OPEN_ALL)
            for name, (_, query) in VIEWS.items():
                transaction.run(f"CREATE OR REPLACE VIEW {name} AS {query}")
                transaction.run(f"COMMENT ON VIEW {name} IS '{VIEW_HASHES[name]}'")

        deadline = time.monotonic() + RETRY_SECONDS
        self._retried(lambda: self._transact(create, deadline), deadline)
        if "completions" not in have:
            self.write_files(APPENDED)

    def _columns(self) -> dict[str, set[str]]:
        sql = (
            "SELECT table_name, list(column_name) AS names FROM duckdb_columns() "
            "WHERE database_name = 'lake' GROUP BY table_name"
        )
        return {row["table_name"]: set(row["names"]) for row in self.read(sql).to_pylist()}

    def _views(self) -> dict[str, str | None]:
        sql = "SELECT view_name, comment FROM duckdb_views() WHERE database_name = 'lake'"
        return {row["view_name"]: row["comment"] for row in self.read(sql).to_pylist()}


def _passes(error: duckdb.Error) -> bool:
    """Whether trying again can help."""
    text = str(error).lower()
    return any(word in text for word in _RETRIED)


def _reason(error: duckdb.Error) -> str:
    return without_passwords(" ".join(str(error).split()))[:500]


def open_lake(service: Service, read_only: bool = False, threads: int | None = None) -> DuckLake:
    """The lake of the config, its tables and views created on first use.

    `threads`: how many DuckDB may use, all cores unless told.
    """
    return DuckLake(_placed(service), service.data_path, read_only, threads)


def _placed(service: Service) -> LakeConfig:
    """Relative paths start at the config file's folder."""
    lake = service.lake
    changes = {}
    kind, _, place = lake.catalog.partition(":")
    if kind == "sqlite":
        changes["catalog"] = f"sqlite:{(service.root / place).resolve()}"
    if lake.data_path and "://" not in lake.data_path:
        changes["data_path"] = str((service.root / lake.data_path).resolve())
    return lake.model_copy(update=changes)

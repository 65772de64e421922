"""Keeps the lake fast: small commits become few files, old snapshots go.

Measured over a SQLite catalog: after 1,000 commits of 100 rows a query takes 150 ms and grows;
compacted every 50 commits (0.1 s of work) it stays at 10-25 ms.
"""

import logging
from collections.abc import Collection, Iterable
from typing import Any

from collector.tally import keep
from everlearn.errors import LakeError
from everlearn.lake.columns import TABLES
from everlearn.lake.ducklake import APPENDED, MERGED, DuckLake

log = logging.getLogger(__name__)

EVERY_COMMITS = 50
EVERY_BYTES = 16 * 2**20
"""Of payload: merging so much takes half a second, which the next rows wait, and makes one file
that is no longer small."""
SMALL_BYTES = 8 * 2**20
"""Files up to this size are merged while collecting: larger ones are left to `maintain`, so that
no byte is rewritten again and again."""
LARGE_BYTES = 256 * 2**20
GRACE_HOURS = 25
"""How long files stand that nothing names any more, for queries that began before. A catalog in
SQLite compares the days alone: there it is an hour at least."""


PATIENCE_TO_ERASE_SECONDS = 30.0
"""How long an erasure waits for the reads of others, which holds new ones back."""
PATIENCE_SECONDS = 0.25
"""How long a flush waits for the reads of others at first, which holds new ones back; twice as long
each time that it did not get its turn."""


class Compaction:
    """Merges small files after every so many commits or bytes, whichever comes first."""

    def __init__(self, lake: DuckLake) -> None:
        self._lake = lake
        self._commits = self._bytes = 0
        self._patience = PATIENCE_SECONDS

    def after_commit(self, payload_bytes: int) -> None:
        """Count one commit; compact when it is time."""
        self._commits += 1
        self._bytes += payload_bytes
        if self._commits >= EVERY_COMMITS or self._bytes >= EVERY_BYTES:
            self._commits = self._bytes = 0
            find_targets(self._lake)
            count(self._lake)
            flushed = compact(self._lake, SMALL_BYTES, self._patience)
            self._patience = PATIENCE_SECONDS if flushed else min(30.0, self._patience * 2)


def compact(lake: DuckLake, max_file_bytes: int, patience_seconds: float = 30.0) -> bool:
    """Write inlined rows to files and merge small files; a lost race is left to the next time.

    Whether every flush had its turn.
    """
    flushed = True
    lake.write_files(MERGED)
    for table in TABLES:
        try:
            flushed = lake.flush(table.name, patience_seconds) and flushed
            lake.call(
                f"CALL ducklake_merge_adjacent_files('lake', '{table.name}', "
                f"max_file_size => {max_file_bytes})"
            )
        except LakeError as error:
            log.warning("not compacted: %s: %s", table.name, error)
    lake.write_files(APPENDED)
    return flushed


def find_targets(lake: DuckLake) -> bool:
    """Look for the completions that feedback waits for; whether there may be more to look for."""
    try:
        return lake.find_targets() > 0
    except LakeError as error:
        log.warning("targets of feedback are looked for later: %s", error)
        return False


def count(lake: DuckLake) -> None:
    """Keep the tally, so that who reads it adds only what is newer."""
    try:
        keep(lake)
    except LakeError as error:
        log.warning("counted later: %s", error)


def maintain(lake: DuckLake, keep_hours: float) -> dict[str, Any]:
    """Merge files, expire snapshots older than `keep_hours`, delete files that nothing names.

    Snapshots that a frozen dataset names are kept. With `keep_hours` 0 nothing may be reading.
    """
    while find_targets(lake):
        pass
    count(lake)
    compact(lake, LARGE_BYTES)
    frozen = lake.read("SELECT DISTINCT lake_snapshot FROM snapshots").column(0).to_pylist()
    expired = _expire(lake, keep_hours, set(frozen))
    deleted = _clean(lake, at_once=not keep_hours)
    return {"snapshots_expired": expired, "files_deleted": deleted}


def expunge(lake: DuckLake, tables: Iterable[str], *, at_once: bool) -> dict[str, Any]:
    """What was deleted of these tables leaves the lake's files and its history.

    Every former snapshot expires, those that frozen datasets name too: what they froze stands in
    `snapshot_rows`. Files that nothing names any more stand `GRACE_HOURS`, or go `at_once`, when
    nothing may be reading. LakeError where reads keep a table from its turn.
    """
    for table in tables:
        if not lake.flush(table, PATIENCE_TO_ERASE_SECONDS):
            raise LakeError(f"{table}: reads kept it from being rewritten: try again")
        lake.call(f"CALL ducklake_rewrite_data_files('lake', '{table}', delete_threshold => 0)")
    expired = _expire(lake, 0.0, set())
    deleted = _clean(lake, at_once=at_once)
    lake.vacuum()
    left = lake.waiting_files()
    return {"snapshots_expired": expired, "files_deleted": deleted, "files_waiting": left}


def _expire(lake: DuckLake, keep_hours: float, kept: Collection[int]) -> int:
    """Snapshots older than that expire, but for the newest and those that are `kept`; how many."""
    rows = lake.read(
        "SELECT snapshot_id FROM ducklake_snapshots('lake') WHERE snapshot_time < "
        "now() - to_seconds(?) AND snapshot_id < (FROM (SELECT id FROM "
        "ducklake_current_snapshot('lake')))",
        [keep_hours * 3600],
    )
    old = sorted(set(rows.column(0).to_pylist()) - set(kept))
    if old:
        lake.call(f"CALL ducklake_expire_snapshots('lake', versions => {old})")
    return len(old)


def _clean(lake: DuckLake, *, at_once: bool) -> int:
    """Delete files that nothing names any more; how many."""
    which = f"older_than => now() - INTERVAL {GRACE_HOURS} HOURS"
    if at_once:
        which = "cleanup_all => true"
    return lake.call(f"CALL ducklake_cleanup_old_files('lake', {which})")

"""How far somebody has looked through the lake: kept in it, so that a new process goes on there.

Only a shortcut: without it, or with one whose snapshot has expired, everything is looked at again.
"""

import json
from datetime import UTC, datetime
from typing import Any, NamedTuple

from everlearn.lake.store import Lake, Transaction


class Mark(NamedTuple):
    """Everything up to `snapshot` was seen; `document` is what came of it."""

    snapshot: int
    document: dict[str, Any]


def read_mark(lake: Lake, name: str) -> Mark | None:
    """The mark of that name, if there is one."""
    sql = "SELECT snapshot, document FROM progress WHERE name = ? ORDER BY snapshot DESC LIMIT 1"
    rows = lake.read(sql, [name]).to_pylist()
    return Mark(rows[0]["snapshot"], json.loads(rows[0]["document"])) if rows else None


def write_mark(lake: Lake, name: str, mark: Mark) -> None:
    """Put the mark in the place of the one before it; an older one than that says nothing."""

    def work(transaction: Transaction) -> None:
        found = transaction.query("SELECT max(snapshot) AS s FROM progress WHERE name = ?", [name])
        if (found[0]["s"] or 0) >= mark.snapshot:
            return
        transaction.query("DELETE FROM progress WHERE name = ?", [name])
        row = {**mark._asdict(), "name": name, "updated_at": datetime.now(UTC)}
        transaction.append("progress", [row])

    lake.commit(work)

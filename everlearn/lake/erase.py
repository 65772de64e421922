"""One person's rows, or one answer's, leave the lake: words, names and what was made of them.

- What the gateways counted stays as a row that says nothing (status or kind `erased`): the capture
  ledger goes on without a hole, and a record that is delivered again finds its place taken.
- Frozen evidence of releases keeps its numbers under a name that was drawn at random.
- All of it is one transaction; a second call finds nothing.
- Files and former snapshots of the lake still hold what stood there: `collector.compact.expunge`.
"""

from dataclasses import dataclass
from typing import Any

import msgspec

from everlearn.errors import InputError, NotFound
from everlearn.ids import new_id
from everlearn.lake.columns import COMPLETIONS, DEAD_LETTERS, FEEDBACK, TableSpec
from everlearn.lake.store import Lake, Transaction

ERASED = "erased"
"""Status of a completion, kind of a feedback, reason of a dead letter that was erased."""
TOUCHED = (
    "completions", "feedback", "feedback_open", "scores", "snapshot_rows", "comments", "lessons",
    "best_of", "release_units", "dead_letters",
)  # fmt: skip
"""Tables that may hold a person's words or name."""
_KEPT = {
    COMPLETIONS.name: ("completion_id", "gateway_id", "seq", "received_at"),
    FEEDBACK.name: ("feedback_id", "gateway_id", "seq", "received_at"),
    DEAD_LETTERS.name: ("gateway_id", "seq", "received_at"),
}
"""What an erased row keeps: which event it was, and when."""

_THEIRS = """SELECT completion_id, upstream_id, request_id, conversation_id FROM completions
    WHERE {column} = ? AND status IS DISTINCT FROM 'erased'"""
# What is said of their answers by whoever, what they say of others' answers, and what waits for an
# answer of theirs.
_SAID = """SELECT feedback_id FROM feedback WHERE kind IS DISTINCT FROM 'erased' AND (
    target IN (SELECT unnest($1::VARCHAR[]))
    OR other_completion_id IN (SELECT unnest($1::VARCHAR[]))
    OR author_id = $3
    OR target IS NULL AND list_has_any([completion_id, request_id, conversation_id], $2::VARCHAR[])
)"""
_TOLD = """SELECT DISTINCT rule AS text FROM comments WHERE rule IS NOT NULL AND (
    feedback_id IN (SELECT unnest(?::VARCHAR[])) OR completion_id IN (SELECT unnest(?::VARCHAR[])))
"""
_SAYS = """SELECT DISTINCT unnest([value_text, comment]) AS text FROM feedback
    WHERE feedback_id IN (SELECT unnest(?::VARCHAR[])) AND coalesce(value_text, comment) <> ''"""
_DELETED = {
    "feedback_open": ("feedback_id",),
    "scores": ("completion_id",),
    "snapshot_rows": ("completion_id", "unit"),
    "comments": ("completion_id", "feedback_id"),
    "lessons": ("completion_id", "unit"),
    "best_of": ("completion_id", "unit"),
}
"""By which of their columns rows are found that go whole."""


@dataclass(frozen=True)
class Subject:
    """Who or what is erased: a unit with everything of it, or one completion.

    InputError where it is neither, or both.
    """

    unit: str | None = None
    completion_id: str | None = None

    def __post_init__(self) -> None:
        if (self.unit is None) == (self.completion_id is None) or not self.name:
            raise InputError("name --unit U or --completion ID: `everlearn erase --help`")
        if "\0" in self.name:
            raise InputError(f"{self.name!r}: DuckLake cannot look for a name with a NUL in it")

    @property
    def name(self) -> str:
        """As it was given."""
        return self.unit or self.completion_id or ""

    @property
    def column(self) -> str:
        """Which column bears the name."""
        return "completion_id" if self.unit is None else "unit"


def answers(lake: Lake, subject: Subject) -> list[str]:
    """Ids of the answers that are the subject's, and of those that frozen rows name."""
    sql = f"""SELECT completion_id FROM completions WHERE {subject.column} = ?
        UNION SELECT completion_id FROM snapshot_rows WHERE {subject.column} = ? ORDER BY ALL"""
    return list(map(str, lake.read(sql, [subject.name] * 2).column(0).to_pylist()))


def erase(lake: Lake, subject: Subject) -> dict[str, int]:
    """Take the subject's rows out; how many of each table, none where there were none."""
    alias = new_id(ERASED)
    return lake.commit(lambda transaction: _erase(transaction, subject, alias))


def must_be_known(lake: Lake, subject: Subject) -> None:
    """NotFound for a completion that never was: a slip of the pen is no erasure."""
    if subject.completion_id is None:
        return
    tables = ("completions", "snapshot_rows", "scores")
    union = " UNION ALL ".join(f"SELECT completion_id FROM {table}" for table in tables)
    sql = f"SELECT count(*) AS n FROM ({union}) WHERE completion_id = ?"
    if not lake.read(sql, [subject.completion_id])["n"][0].as_py():
        raise NotFound(f"--completion {subject.completion_id!r}: the lake has no such completion")


def _erase(transaction: Transaction, subject: Subject, alias: str) -> dict[str, int]:
    sql = _THEIRS.format(column=subject.column)
    theirs = transaction.query(sql, [subject.name])
    ids = [row["completion_id"] for row in theirs]
    if subject.completion_id is not None:
        ids = [subject.completion_id]
    names = sorted({name for row in theirs for name in row.values() if name})
    if subject.unit is None:
        # A conversation has other answers, which stay, and so do words on it.
        names = sorted({row[key] for row in theirs for key in _OWN_NAMES if row[key]})
    drawn = transaction.query(_DRAWN, [subject.unit])
    said = transaction.query(_SAID, [ids, names, subject.unit])
    words = [row["feedback_id"] for row in said]
    told = [*transaction.query(_TOLD, [words, ids]), *transaction.query(_SAYS, [words])]
    done = {
        "completions": _blank(transaction, COMPLETIONS, "status", (subject.column, [subject.name])),
        "feedback": _blank(transaction, FEEDBACK, "kind", ("feedback_id", words)),
        "dead_letters": _dead(transaction, subject),
    }
    done["rules"] = _rules(transaction, words, sorted({row["text"] for row in told if row["text"]}))
    wanted = {"completion_id": ids, "feedback_id": words, "unit": [subject.unit]}
    for table, columns in _DELETED.items():
        where = " OR ".join(f"{name} IN (SELECT unnest(?::VARCHAR[]))" for name in columns)
        params = [wanted[name] for name in columns]
        done[table] = _changed(transaction.query(f"DELETE FROM {table} WHERE {where}", params))
    if subject.unit is not None:
        units = [subject.unit, *(row["draw"] for row in drawn)]
        renamed = "UPDATE release_units SET unit = ? WHERE unit IN (SELECT unnest(?::VARCHAR[]))"
        done["release_units"] = _changed(transaction.query(renamed, [alias, units]))
    return {table: number for table, number in done.items() if number}


# A hash of the name: who knows the name could look whether it is there.
_DRAWN = "SELECT DISTINCT draw FROM completions WHERE unit = ? AND draw IS NOT NULL"
_OWN_NAMES = ("completion_id", "upstream_id", "request_id")


def _blank(
    transaction: Transaction, table: TableSpec, says: str, which: tuple[str, list[str]]
) -> int:
    """Leave of these rows only that they were; how many."""
    column, names = which
    if not names:
        return 0
    kept = _KEPT[table.name]
    nothing = [f'"{name}" = NULL' for name in table.names if name not in (*kept, says)]
    changes = ", ".join([f"{says} = '{ERASED}'", *nothing])
    sql = f"""UPDATE {table.name} SET {changes}
        WHERE {column} IN (SELECT unnest(?::VARCHAR[])) AND {says} IS DISTINCT FROM '{ERASED}'"""
    return _changed(transaction.query(sql, [names]))


def _rules(transaction: Transaction, words: list[str], texts: list[str]) -> int:
    """Others' rows that were to learn by these comments lose them; how many."""
    if not words:
        return 0
    named = "list_has_any(CAST(json(comments) AS VARCHAR[]), ?::VARCHAR[])"
    gone = _changed(transaction.query(f"DELETE FROM lessons WHERE {named}", [words]))
    held = "list_has_any(CAST(json(rules) AS VARCHAR[]), ?::VARCHAR[])"
    return gone + _changed(
        transaction.query(f"UPDATE snapshot_rows SET rules = NULL WHERE {held}", [texts])
    )


def _dead(transaction: Transaction, subject: Subject) -> int:
    """Records that could not be read and bear the name as an event writes it."""
    mark = msgspec.msgpack.encode(subject.name)
    letters = transaction.query("SELECT gateway_id, seq, raw FROM dead_letters")
    count = 0
    for row in letters:
        if mark in (row["raw"] or b""):
            sql = f"""UPDATE dead_letters SET raw = NULL, reason = '{ERASED}'
                WHERE gateway_id IS NOT DISTINCT FROM ? AND seq IS NOT DISTINCT FROM ?"""
            count += _changed(transaction.query(sql, [row["gateway_id"], row["seq"]]))
    return count


def _changed(result: list[dict[str, Any]]) -> int:
    """How many rows an UPDATE or DELETE says it changed."""
    return int(next(iter(result[0].values()))) if result else 0

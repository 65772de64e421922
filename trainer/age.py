"""What was true once and is no longer: pure functions, every row set aside with its reason.

- `train.max_age_days` is counted back from the newest word, not from today: a task that nobody has
  spoken of for months keeps what it knows, and the same lake gives the same rows.
- What an expert says is right for a prompt replaces what experts said of that prompt before; what
  users said meets it at admission.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from trainer.rows import LEARNED, Row, fold

Right = tuple[datetime, str]
"""When an expert last said what is right, and what."""


def current(rows: Sequence[Row], max_age_days: float | None) -> list[Row]:
    """The rows, those that are `too_old` or `superseded` set aside."""
    dated = [row for row in rows if row.known_at is not None]
    if not dated:
        return list(rows)
    newest = max(_at(row) for row in dated)
    oldest = None if max_age_days is None else newest - timedelta(days=max_age_days)
    right = _latest_words(dated)
    return [_settled(row, oldest, right) for row in rows]


def _settled(row: Row, oldest: datetime | None, right: dict[str, Right]) -> Row:
    if row.known_at is None or row.dropped_reason is not None:
        return row
    if oldest is not None and _at(row) < oldest:
        return replace(row, dropped_reason="too_old")
    if (known := right.get(row.key)) and _at(row) < known[0] and _denies(row, known[1]):
        return replace(row, dropped_reason="superseded")
    return row


def _denies(row: Row, right: str) -> bool:
    """Whether an expert said that something else is right, or that this is wrong."""
    if row.author != "expert":
        return False
    if row.kind in LEARNED:
        return fold(row.answer) != right
    return row.kind == "rejected" and fold(row.completion) == right


def _latest_words(rows: Sequence[Row]) -> dict[str, Right]:
    """By prompt."""
    found: dict[str, Right] = {}
    for row in rows:
        if row.kind == "correction" and row.author == "expert":
            word = (_at(row), fold(row.answer))
            found[row.key] = max(found.get(row.key, word), word)
    return found


def _at(row: Row) -> datetime:
    assert row.known_at is not None
    return row.known_at

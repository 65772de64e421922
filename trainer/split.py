"""Which side of the held-out border a row stands on: pure functions.

- The side is a salted hash of the unit alone, so it never changes.
- No prompt stands on both sides. An ordinary answer (replay) gives way to the held-out row, since
  there are plenty; a judged training row does not: then the held-out row is left out and counted.
- A held-out row needs a right answer to compare with, and each prompt counts once.
"""

from collections.abc import Sequence
from dataclasses import replace

from everlearn.prompts import is_heldout
from trainer.rows import LEARNED, Row


def by_unit(rows: Sequence[Row], percent: float, salt: str) -> list[Row]:
    """Every row on its unit's side."""
    return [
        replace(row, split="heldout" if is_heldout(row.unit, percent, salt) else "train")
        for row in rows
    ]


def without_leaks(rows: Sequence[Row]) -> list[Row]:
    """No prompt on both sides, held-out prompts once, each with its right answer."""
    judged = {row.key for row in rows if row.split == "train" and row.kind != "replay"}
    tested = {row.key for row in rows if _testable(row)} - judged
    seen: set[str] = set()
    return [_settled(row, judged, tested, seen) for row in sorted(rows, key=_experts_first)]


def _settled(row: Row, judged: set[str], tested: set[str], seen: set[str]) -> Row:
    if row.split == "train" and row.kind == "replay" and row.key in tested:
        return _dropped(row, "prompt_heldout")
    if row.split != "heldout":
        return row
    if not _testable(row):
        return _dropped(row, "heldout_without_target")
    if row.key in judged:
        return _dropped(row, "prompt_in_training")
    if row.key in seen:
        return _dropped(row, "prompt_twice")
    seen.add(row.key)
    return row


def _testable(row: Row) -> bool:
    return row.split == "heldout" and row.kind in LEARNED and row.target is not None


def _experts_first(row: Row) -> tuple[bool, str]:
    return row.author != "expert", row.completion_id


def _dropped(row: Row, reason: str) -> Row:
    return replace(row, split="dropped", dropped_reason=reason)

"""Which side a row stands on - train, select or gate: pure functions.

- The side is a salted hash of the unit alone, so it never changes. The trainer teaches `train` and
  chooses by `select`; `gate` rows are for the exam at the door, which no chooser has seen.
- No prompt stands on two sides. An ordinary answer (replay) gives way to a held-out row that has a
  right answer, since there are plenty; a judged training row does not: then the held-out row is
  left out and counted. A prompt of the exam is none to choose by.
- A held-out row needs a right answer to compare with, unless the grader needs none; each prompt
  counts once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from everlearn.prompts import side_of
from trainer.rows import LEARNED, OWN_WORD, UNJUDGED, Row

HELDOUT = ("select", "gate")


def by_unit(rows: Sequence[Row], percent: float, salt: str) -> list[Row]:
    """Every row on its unit's side."""
    return [
        replace(row, split=side_of(row.unit, heldout_percent=percent, salt=salt)) for row in rows
    ]


def without_leaks(rows: Sequence[Row], *, reference: bool = True) -> list[Row]:
    """No prompt on two sides, held-out prompts once; `reference`: the grader needs the right
    answer, so that every held-out row needs one."""
    exam = sorted(rows, key=_exam_first)
    training = [row for row in rows if row.split == "train"]
    judged = {row.key for row in training if row.kind not in UNJUDGED}
    keys = _Keys(judged, {row.key for row in training}, reference)
    keys.tested = {row.key for row in rows if _testable(row)} - judged
    return [_settled(row, keys) for row in exam]


@dataclass
class _Keys:
    """Prompts by what they are used for; `seen` grows."""

    judged: set[str]
    trained: set[str]
    reference: bool
    tested: set[str] = field(default_factory=set)
    seen: dict[str, str] = field(default_factory=dict)


def _settled(row: Row, keys: _Keys) -> Row:
    if row.split == "train" and row.kind in UNJUDGED and row.key in keys.tested:
        return _dropped(row, "prompt_heldout")
    if row.split not in HELDOUT:
        return row
    if row.author in OWN_WORD:
        # What the model said and a machine found good is a lesson, not the right answer of an exam.
        row = replace(row, target=None, target_message=None)
    testable = _testable(row)
    if not testable and keys.reference:
        return _dropped(row, "heldout_without_target")
    if row.key in (keys.judged if testable else keys.trained):
        return _dropped(row, "prompt_in_training")
    if row.key in keys.seen:
        elsewhere = {"gate": "prompt_in_exam", "select": "prompt_in_selection"}
        side = keys.seen[row.key]
        return _dropped(row, "prompt_twice" if side == row.split else elsewhere[side])
    keys.seen[row.key] = row.split
    return row


def _testable(row: Row) -> bool:
    right = row.kind in LEARNED and row.target is not None and row.author not in OWN_WORD
    return row.split in HELDOUT and right


def _exam_first(row: Row) -> tuple[bool, bool, bool, str]:
    """Of one prompt: a row with a right answer, the exam's, an expert's."""
    return not _testable(row), row.split != "gate", row.author != "expert", row.completion_id


def _dropped(row: Row, reason: str) -> Row:
    return replace(row, split="dropped", dropped_reason=reason)

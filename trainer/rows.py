"""What a snapshot is made of: one row per judged or ordinary answer, frozen and without behaviour.

- `accepted`: somebody said the answer is right; target = the answer.
- `correction`: an expert gave the right answer; target = that, completion = the wrong one.
- `preference`: target = the preferred answer, completion = the other one.
- `rejected`: somebody said the answer is wrong, nobody said what is right.
- `replay`: an ordinary answer of the champion that nobody complained about.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from everlearn.prompts import prompt_key

Kind = Literal["accepted", "rejected", "correction", "preference", "replay"]
Side = Literal["train", "heldout", "dropped"]
Messages = Sequence[Mapping[str, Any]]

LEARNED: tuple[Kind, ...] = ("accepted", "correction", "preference")
"""Kinds whose target is taught."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One example; `split` and `dropped_reason` say what became of it."""

    completion_id: str
    unit: str
    kind: Kind
    messages: Messages
    completion: str
    target: str | None = None
    author: str | None = None
    """expert or end_user; None if nobody judged it."""
    weight: float = 1.0
    """Trust, summed over the raters that agree."""
    raters: tuple[str, ...] = ()
    """Whose word it is, where no expert's; none: the unit's own."""
    split: Side = "train"
    dropped_reason: str | None = None
    trainable: bool = True
    finish_reason: str | None = None
    verdicts: Mapping[str, float] = field(default_factory=dict)
    """Latest scores of the completion by grader name."""

    @cached_property
    def key(self) -> str:
        """Rows with equal keys ask the same."""
        return prompt_key(self.messages)

    @property
    def answer(self) -> str:
        """What the row teaches or shows: the target, else the answer given."""
        return self.completion if self.target is None else self.target

    @property
    def row_hash(self) -> str:
        """sha256 of messages, completion and target."""
        content = json.dumps([list(self.messages), self.completion, self.target], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


def fold(text: str) -> str:
    """Answers are the same when they differ in white space only."""
    return " ".join(text.split())


def to_lake(row: Row, snapshot_id: str) -> dict[str, Any]:
    """The row as table `snapshot_rows` keeps it; a dropped row keeps no text."""
    kept = row.split != "dropped"
    return {
        "snapshot_id": snapshot_id,
        "completion_id": row.completion_id,
        "unit": row.unit,
        "split": row.split,
        "dropped_reason": row.dropped_reason,
        "kind": row.kind,
        "messages": list(row.messages) if kept else None,
        "completion": row.completion if kept else None,
        "target": row.target if kept else None,
        "author": row.author,
        "weight": row.weight,
        "row_hash": row.row_hash,
    }


def from_lake(record: Mapping[str, Any]) -> Row:
    """A row of table `snapshot_rows`."""
    return Row(
        completion_id=record["completion_id"],
        unit=record["unit"] or "",
        kind=record["kind"],
        messages=parsed(record["messages"]) or [],
        completion=record["completion"] or "",
        target=record["target"],
        author=record["author"],
        weight=record["weight"],
        split=record["split"],
        dropped_reason=record["dropped_reason"],
    )


def parsed(value: Any) -> Any:
    """A JSON column's value, whether the lake gave text or objects."""
    return json.loads(value) if isinstance(value, str) else value

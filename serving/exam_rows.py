"""What an exam asks: the gate rows of a snapshot, and the task's regression suite."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from everlearn.errors import InputError, NotFound
from everlearn.lake.store import Lake
from everlearn.prompts import last_user_text, prompt_key
from everlearn.task import Task
from serving.ask import Question

SIDES = ("gate", "heldout")
"""Of a snapshot, the first that it has: those made before there were three sides held out one."""


@dataclass(frozen=True)
class ExamRow:
    """One question, what is right where somebody said so, and who said it."""

    question: Question
    reference: str | None = None
    author: str | None = None
    unit: str | None = None
    context: Mapping[str, Any] = field(default_factory=dict)
    """Metadata and feedback of the logged answer, as graders of live answers know them."""

    @cached_property
    def key(self) -> str:
        """Rows with equal keys ask the same."""
        return prompt_key(self.question.messages, self.question.tools)

    @property
    def item(self) -> dict[str, Any]:
        """What the grader may know beside the answer."""
        return {
            "messages": list(self.question.messages),
            "prompt": last_user_text(self.question.messages),
            "reference": self.reference,
            "metadata": {},
            **self.context,
        }


def read_rows(lake: Lake, snapshot_id: str | None, task: Task) -> list[ExamRow]:
    """The rows that the trainer of this snapshot never saw."""
    if snapshot_id is None:
        raise NotFound(
            f"task {task.task}: the version names no snapshot, so there are no gate rows"
        )
    sql = "SELECT * FROM snapshot_rows WHERE snapshot_id = ? AND split = ? ORDER BY row_hash"
    for side in SIDES:
        records = lake.read(sql, [snapshot_id, side]).to_pylist()
        if records:
            return [_row(record) for record in records]
    return []


def _row(record: Mapping[str, Any]) -> ExamRow:
    question = Question(
        messages=_parsed(record["messages"]) or [],
        tools=_parsed(record.get("tools")),
        options=_parsed(record.get("options")),
    )
    context = _parsed(record.get("context")) or {}
    return ExamRow(question, record["target"], record["author"], record["unit"], context)


def read_suite(task: Task) -> list[ExamRow]:
    """The rows of `gate.regression_suite`; InputError naming the line that is wrong."""
    if task.gate.regression_suite is None:
        return []
    path = task.folder / task.gate.regression_suite
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"gate.regression_suite {path}: {error.strerror}") from error
    return [_suite_row(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _suite_row(path: Path, number: int, line: str) -> ExamRow:
    try:
        content = json.loads(line)
        return ExamRow(
            Question(content["messages"], content.get("tools")),
            str(content["reference"]),
            "expert",
            "suite",
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}:{number}: not {{messages, reference}}: {error}") from error


def _parsed(value: Any) -> Any:
    """A JSON column's value, whether the lake gave text or objects."""
    return json.loads(value) if isinstance(value, str) else value

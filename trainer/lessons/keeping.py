"""Whether answers keep to comments: what the judge says, or a grader of the task; and whether they
are as good as before, by the held-out grader. Nobody's word is unscored, never a zero."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from evaluators.bulk import grade_all, in_background
from evaluators.judge.comments import CommentJudge
from evaluators.types import Sample
from everlearn.config import Service
from everlearn.errors import GraderError
from everlearn.prompts import last_user_text
from everlearn.task import Task
from trainer.reward import item
from trainer.rows import Row

CONCURRENCY = 8
"""Questions to the judge in flight."""

Question = tuple[tuple[str, ...], Row, str]
"""(all that is to be kept to, whose prompt, answer)"""


class Keeping(Protocol):
    """One or zero per question; None where nobody could say."""

    def __call__(self, asked: Sequence[Question]) -> list[float | None]: ...


class ByJudge:
    """The model that sorts the comments; each question is asked once."""

    def __init__(self, judge: CommentJudge) -> None:
        self._judge = judge
        self._said: dict[tuple[str, str, str], float | None] = {}

    def __call__(self, asked: Sequence[Question]) -> list[float | None]:
        marks = [
            ("\n".join(rules), last_user_text(row.messages) or "", text)
            for rules, row, text in asked
        ]
        new = [mark for mark in dict.fromkeys(marks) if mark not in self._said]
        self._said.update(zip(new, in_background(self._ask(new)), strict=True))
        return [self._said[mark] for mark in marks]

    async def _ask(self, marks: Sequence[tuple[str, str, str]]) -> list[float | None]:
        room = asyncio.Semaphore(CONCURRENCY)

        async def one(rule: str, request: str, answer: str) -> float | None:
            async with room:
                try:
                    return float(await self._judge.keeps(rule, request, answer))
                except GraderError:
                    return None

        return list(await asyncio.gather(*(one(*mark) for mark in marks)))


class ByGrader:
    """A grader of the task that reads `item.rule`, asked rule by rule; 1 from one half on."""

    def __init__(self, task: Task, service: Service, name: str) -> None:
        from evaluators.graders import build

        self._evaluator = build(task.grader(name), task, service)

    def __call__(self, asked: Sequence[Question]) -> list[float | None]:
        pairs = [
            (Sample(text), {**item(row), "rule": rule})
            for rules, row, text in asked
            for rule in rules
        ]
        scores = iter(grade_all([self._evaluator], pairs))
        return [_all([next(scores)[0].value for _ in rules]) for rules, _, _ in asked]

    def close(self) -> None:
        """End what the grader started."""
        in_background(self._evaluator.aclose())


def _all(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(min(known) >= 0.5) if known and len(known) == len(values) else None

"""What a model shows on the *select* rows, by which methods are chosen.

Every model answers the same prompts greedily, and one grader compares the answers with the right
ones: an expert's, or those that users accepted, which favour the champion that gave them. Whether a
candidate deserves traffic is not asked here: that is the exam at the door (`everlearn gate`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from everlearn.graders import ScoreModel
from everlearn.task import Task, heldout_grader
from trainer.generate import Answers, Asked, answer_all
from trainer.rows import Row
from trainer.workbench import Workbench

Grade = Callable[[Sequence[Row], Sequence[str]], list[float | None]]
"""Scores of answers to the prompts of the rows; None = unscored."""


@dataclass(frozen=True)
class Exam:
    """What one model's answers to some rows were given; None = unscored."""

    scores: tuple[float | None, ...]


def examine(model: Any, bench: Workbench, grade: Grade, rows: Sequence[Row]) -> Exam:
    """Let the model answer all rows and grade the answers."""
    made = answer(model, bench, [row.conversation for row in rows])
    graded = grade(rows, [each.text for each in made.answers])
    marks = marked(graded, made, lowest(bench.task))
    # What the model was not asked is unscored, not wrong.
    return Exam(
        tuple(
            mark if each.token_ids else None for mark, each in zip(marks, made.answers, strict=True)
        )
    )


def marked(
    scores: Sequence[float | None], made: Answers, worst: float = 0.0
) -> tuple[float | None, ...]:
    """The scores, of an answer that was cut the worst, as in the exam at the door."""
    pairs = zip(scores, made.answers, strict=True)
    return tuple(worst if each.cut else score for score, each in pairs)


def lowest(task: Task) -> float:
    """The worst that the held-out grader gives."""
    grader = task.grader(heldout_grader(task))
    return grader.range[0] if isinstance(grader, ScoreModel) else 0.0


def answer(model: Any, bench: Workbench, prompts: Sequence[Asked]) -> Answers:
    """Greedy answers, as long as the task trains them."""
    return answer_all(model, bench.tokenizer, prompts, bench.task.train.max_completion_tokens)


def mean(scores: Sequence[float | None]) -> float | None:
    """Of the scored ones; None if there are none."""
    known = [score for score in scores if score is not None]
    return fmean(known) if known else None

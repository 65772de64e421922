"""Answers of somebody else's model, with which a task may begin: targets, never replay."""

from collections.abc import Mapping
from typing import Any

from everlearn.graders import FeedbackGrader, Grader, ScoreModel, TextSimilarity
from everlearn.task import Task
from trainer.rows import Row, accept


def from_elsewhere(record: Mapping[str, Any], task: Task) -> bool:
    """Whether somebody else's model gave the answer: the champion that a task may begin with."""
    there = task.champion
    return there is not None and (record["upstream"], record["model_served"]) == (
        there.upstream,
        there.model,
    )


def elsewhere(row: Row, task: Task) -> Row | None:
    """An unjudged answer of somebody else's model is a target where every grader passes it and
    the task wants that; it is never replay, for it is not what our model does already."""
    graders = [grader for grader in task.graders if not isinstance(grader, FeedbackGrader)]
    known = [(grader, row.verdicts.get(grader.name)) for grader in graders]
    scored = [(grader, value) for grader, value in known if value is not None]
    if not task.train.distil or not scored:
        return None
    passed = all(value >= passing(grader) for grader, value in scored)
    return accept(row, author="grader") if passed else None


def passing(grader: Grader) -> float:
    """The least value that counts as right: 1, or four fifths of a scale."""
    if isinstance(grader, ScoreModel):
        low, high = grader.range
        return low + 0.8 * (high - low)
    return 0.8 if isinstance(grader, TextSimilarity) else 1.0

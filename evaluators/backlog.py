"""How many answers of a task still wait for some grader's first look, and since when.

It costs what came since `evaluate` last looked through the lake, not what is there.
"""

from contextlib import suppress
from datetime import datetime
from typing import NamedTuple

from evaluators.graders import build_all
from evaluators.pending import changes, waiting
from evaluators.run import mark_name
from everlearn.config import Service
from everlearn.errors import LakeError
from everlearn.lake.progress import read_mark
from everlearn.lake.store import Lake
from everlearn.task import Task


class Backlog(NamedTuple):
    """Of one task."""

    answers: int
    oldest: datetime | None
    """When the one that waits longest was received."""


def backlog(service: Service, task: Task, lake: Lake) -> Backlog:
    """As the lake stands; without a mark, or with an expired one, all of it is looked through, as
    `evaluate` would."""
    graders = build_all(task, service)
    if not graders:
        return Backlog(0, None)
    mark, among = read_mark(lake, mark_name(task.task, graders)), None
    if mark is not None:
        with suppress(LakeError):
            among = changes(lake, mark.snapshot, lake.snapshot_id()).completions
    if among is not None and not among:
        return Backlog(0, None)
    return Backlog(*waiting(lake, task.task, graders, among))

"""Scores what is not yet scored: idempotent, incremental, in bounded batches.

1. Read what is due (`pending`).
2. When it is more than one batch or a judge model is asked, write every expected score as unscored
   first: a gap is visible from then on, whatever happens. What is scored at once needs no seed.
3. Score a batch and write its rows, unscored ones with their reason, in one commit; go on.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from evaluators.bulk import grade, grade_all, in_background
from evaluators.graders import build_all
from evaluators.graders.base import Base
from evaluators.pending import Pending, pending, seed
from evaluators.references import references
from evaluators.types import Score
from everlearn.config import Service
from everlearn.errors import NotFound
from everlearn.store import Lake
from everlearn.task import Task

__all__ = ["evaluate", "EvaluateReport", "GraderCounts", "grade", "grade_all"]

BATCH = 1000
"""Completions per commit."""


@dataclass
class GraderCounts:
    """What one grader did in this call."""

    scored: int = 0
    unscored: int = 0
    failed: int = 0
    """Of the unscored: the grader itself failed."""
    total: float = 0.0
    reasons: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Why unscored, with counts."""

    def add(self, score: Score) -> None:
        """Count one score."""
        if score.value is not None:
            self.scored += 1
            self.total += score.value
            return
        self.unscored += 1
        self.failed += score.error is not None
        self.reasons[score.error or score.reason or "no reason given"] += 1


@dataclass(frozen=True)
class EvaluateReport:
    """What a call did."""

    task: str
    completions: int
    seeded: int
    graders: Mapping[str, GraderCounts]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "task": self.task,
            "completions": self.completions,
            "seeded": self.seeded,
            "graders": {
                name: {
                    "scored": counts.scored,
                    "unscored": counts.unscored,
                    "failed": counts.failed,
                    "mean": counts.total / counts.scored if counts.scored else None,
                    "reasons": dict(counts.reasons),
                }
                for name, counts in self.graders.items()
            },
        }


def evaluate(
    service: Service,
    task: Task,
    lake: Lake,
    *,
    grader: str | None = None,
    since: datetime | None = None,
    limit: int | None = None,
) -> EvaluateReport:
    """Score the task's completions received from `since` on, the oldest first, at most `limit`."""
    graders = _chosen(build_all(task, service), task, grader)
    counts = {each.name: GraderCounts() for each in graders}
    if not graders:
        return EvaluateReport(task.task, 0, 0, counts)
    known = references(lake, task.task) if any(each.needs_reference for each in graders) else {}
    done, seeded = 0, 0
    try:
        while limit is None or done < limit:
            size = BATCH if limit is None else min(BATCH, limit - done)
            batch = pending(lake, task.task, graders, known, since=since, limit=size)
            if done == 0 and (len(batch) == size or (batch and any(g.slow for g in graders))):
                seeded = seed(lake, task.task, graders, since)
            if batch:
                _score(lake, task.task, graders, batch, counts)
            done += len(batch)
            if len(batch) < size:
                break
    finally:
        in_background(_close(graders))
    return EvaluateReport(task.task, done, seeded, counts)


def _chosen(graders: Sequence[Base[Any]], task: Task, name: str | None) -> list[Base[Any]]:
    chosen = [each for each in graders if name in (None, each.name)]
    if name is not None and not chosen:
        known = ", ".join(each.name for each in graders) or "none"
        raise NotFound(f"task {task.task}: no grader {name!r}; there are: {known}")
    return chosen


def _score(
    lake: Lake,
    task: str,
    graders: Sequence[Base[Any]],
    batch: Sequence[Pending],
    counts: Mapping[str, GraderCounts],
) -> None:
    """Score one batch and commit it."""
    rows: list[dict[str, Any]] = []
    groups: dict[frozenset[str], list[Pending]] = defaultdict(list)
    for each in batch:
        groups[frozenset(each.evaluators)].append(each)
    for names, members in groups.items():
        due = [each for each in graders if each.name in names]
        scores = in_background(grade(due, [(each.sample, each.item) for each in members]))
        for member, verdicts in zip(members, scores, strict=True):
            for evaluator, verdict in zip(due, verdicts, strict=True):
                counts[evaluator.name].add(verdict)
                rows.append(_row(task, member, evaluator, verdict))
    lake.commit(lambda transaction: transaction.append("scores", rows))


def _row(task: str, member: Pending, grader: Base[Any], score: Score) -> dict[str, Any]:
    return {
        "completion_id": member.completion_id,
        "task": task,
        "evaluator": grader.name,
        "evaluator_version": grader.version,
        "value": score.value,
        "label": score.label,
        "reason": score.reason,
        "sub_scores": dict(score.sub_scores) or None,
        "error": score.error,
        "cost": dict(score.cost) or None,
        "context": member.context(grader),
        "created_at": datetime.now(UTC),
    }


async def _close(graders: Sequence[Base[Any]]) -> None:
    for each in graders:
        await each.aclose()

"""Scores what is not yet scored: idempotent, incremental, in bounded batches.

1. Read what is due (`pending`).
2. When it is more than one batch or a judge model is asked, write every expected score as unscored
   first: a gap is visible from then on, whatever happens. What is scored at once needs no seed.
3. Score a batch and write its rows, unscored ones with their reason, in one commit; go on.
"""

import hashlib
import json
import logging
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from weakref import WeakKeyDictionary

from evaluators.bulk import grade, grade_all, in_background
from evaluators.graders import build_all
from evaluators.graders.base import Base
from evaluators.judge.budget import spending
from evaluators.pending import Changes, Pending, changes, failed, pending, seed
from evaluators.references import Reference, references
from evaluators.sandbox import require
from evaluators.types import Score
from everlearn.config import Service
from everlearn.errors import LakeError, NotFound
from everlearn.lake.progress import Mark, read_mark, write_mark
from everlearn.lake.store import Lake
from everlearn.process_log import about, tell_rows
from everlearn.state import open_state
from everlearn.task import Task
from everlearn.tolerant import mended

__all__ = ["evaluate", "EvaluateReport", "GraderCounts", "grade", "grade_all"]

log = logging.getLogger(__name__)

BATCH = 1000
"""Completions per commit."""


@dataclass(frozen=True)
class Progress:
    """How far a lake has been looked through for some graders."""

    snapshot: int
    failures: bool
    """Some grader failed: what is left of its tries comes due by time alone."""
    marked: int
    """The snapshot that the lake's mark tells."""
    known: Mapping[str, Reference] | None = None
    """None: not read in this process."""


_PROGRESS: WeakKeyDictionary[Lake, dict[Any, Progress]] = WeakKeyDictionary()
"""Of this process, by lake; a new process begins at the mark that the lake keeps."""
FAR = 100
"""Snapshots without anything to score after which the mark is moved all the same."""


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
    """Score the task's completions received from `since` on, the oldest first, at most `limit`.

    The first call looks at all of them, the next ones, of any process, only at what has changed.
    """
    graders = _chosen(build_all(task, service), task, grader)
    if any(each.runs_code for each in graders):
        require(service.sandbox)
    call = _Call(task.task, lake, graders, since, limit)
    call.paid_since = _paid_since(service, task)
    try:
        if graders:
            call.run()
    finally:
        in_background(_close(graders))
    return EvaluateReport(task.task, call.done, call.seeded, call.counts)


class _Call:
    """One call of `evaluate`."""

    def __init__(
        self,
        task: str,
        lake: Lake,
        graders: Sequence[Base[Any]],
        since: datetime | None,
        limit: int | None,
    ) -> None:
        self.task, self.lake, self.graders, self.since = task, lake, graders, since
        self.left = sys.maxsize if limit is None else limit
        self.counts = {each.name: GraderCounts() for each in graders}
        self.done = self.seeded = 0
        self.paid_since: datetime | None = None
        self.mark = mark_name(task, graders, since)

    def run(self) -> None:
        """Find what is due, score it and, when nothing is left, remember how far the lake went."""
        snapshot = self.lake.snapshot_id()
        before = self._before()
        found = None if before is None else self._changes(before, snapshot)
        among = None if found is None or before is None else self._among(found, before)
        known = before.known if before is not None and among is not None else None
        if among is None or (among and known is None):
            known = self._references()
        if not self._batches(known or {}, among):
            return
        failures = any(counts.failed for counts in self.counts.values())
        failures = failures or (before is not None and before.failures)
        marked = 0 if before is None else before.marked
        if before is None or self.done or snapshot - marked > FAR:
            write_mark(self.lake, self.mark, Mark(snapshot, {"failures": failures}))
            marked = snapshot
        _PROGRESS[self.lake][self.mark] = Progress(snapshot, failures, marked, known)

    def _before(self) -> Progress | None:
        """How far this process has looked, else how far any has."""
        held = _PROGRESS.setdefault(self.lake, {}).get(self.mark)
        if held is not None:
            return held
        mark = read_mark(self.lake, self.mark)
        if mark is None:
            return None
        return Progress(mark.snapshot, mark.document["failures"], mark.snapshot)

    def _changes(self, before: Progress, snapshot: int) -> Changes | None:
        """None: look at everything, as a reference or an expired snapshot demands."""
        try:
            found = changes(self.lake, before.snapshot, snapshot)
        except LakeError:
            return None
        if found.experts and any(each.needs_reference for each in self.graders):
            return None
        return found

    def _among(self, found: Changes, before: Progress) -> frozenset[str]:
        if not before.failures:
            return found.completions
        return found.completions | failed(self.lake, self.task, self.graders)

    def _references(self) -> dict[str, Reference]:
        needed = any(each.needs_reference for each in self.graders)
        return references(self.lake, self.task) if needed else {}

    def _batches(self, known: Mapping[str, Reference], among: frozenset[str] | None) -> bool:
        """Score batch by batch; whether all that was due is done."""
        while self.left > 0:
            size = min(BATCH, self.left)
            batch = pending(
                self.lake, self.task, self.graders, known,
                since=self.since, limit=size, among=among, paid_since=self.paid_since,
            )  # fmt: skip
            if self.done == 0 and (len(batch) == size or (batch and self._is_slow())):
                self.seeded = seed(self.lake, self.task, self.graders, self.since, among)
            if batch:
                _score(self.lake, self.task, self.graders, batch, self.counts)
            self.done += len(batch)
            self.left -= len(batch)
            if len(batch) < size:
                return True
        return False

    def _is_slow(self) -> bool:
        return any(each.slow for each in self.graders)


def mark_name(task: str, graders: Sequence[Base[Any]], since: datetime | None = None) -> str:
    """Under which the lake keeps how far it was looked through for these graders."""
    wanted = json.dumps([sorted(each.version for each in graders), since and since.isoformat()])
    return f"evaluate/{task}/{hashlib.sha256(wanted.encode()).hexdigest()[:16]}"


def _paid_since(service: Service, task: Task) -> datetime | None:
    """What judges had no money for before then can be paid; None: they have none today."""
    now = datetime.now(UTC)
    if task.judges.max_cost_per_day is None:
        return now
    with closing(open_state(service)) as state:
        spent = spending(state, task)
    return None if spent is not None and spent.closed else now


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
        if each.fault is None:
            groups[frozenset(each.evaluators)].append(each)
            continue
        for evaluator in (grader for grader in graders if grader.name in each.evaluators):
            counts[evaluator.name].add(Score(reason=each.fault))
            rows.append(_row(task, each, evaluator, Score(reason=each.fault)))
    for names, members in groups.items():
        due = [each for each in graders if each.name in names]
        scores = in_background(grade(due, [(each.sample, each.item) for each in members]))
        for member, verdicts in zip(members, scores, strict=True):
            for evaluator, verdict in zip(due, verdicts, strict=True):
                counts[evaluator.name].add(verdict)
                rows.append(_row(task, member, evaluator, verdict))
    lake.commit(lambda transaction: transaction.append("scores", rows))
    _tell(batch, rows)


def _tell(batch: Sequence[Pending], rows: Sequence[Mapping[str, Any]]) -> None:
    """In the process log: the answers that a grader failed at, or that no grader can read. Why
    stands in the row, not here: it may quote the answer."""
    known = {each.completion_id: each for each in batch}
    lines: list[dict[str, Any]] = []
    for row in rows:
        each = known[row["completion_id"]]
        if row["error"] is not None or each.fault is not None:
            names = about(each.completion_id, each.request_id)
            lines.append({**names, "task": row["task"], "grader": row["evaluator"]})
    tell_rows(log, "not scored, scores.error and scores.reason say why", lines)


def _row(task: str, member: Pending, grader: Base[Any], score: Score) -> dict[str, Any]:
    return {
        "completion_id": member.completion_id,
        "task": task,
        "evaluator": grader.name,
        "evaluator_version": grader.version,
        "value": score.value,
        "label": _told(score.label),
        "reason": _told(score.reason),
        "sub_scores": dict(score.sub_scores) or None,
        "error": _told(score.error),
        "cost": dict(score.cost) or None,
        "context": member.context(grader),
        "created_at": datetime.now(UTC),
    }


def _told(words: str | None) -> str | None:
    """Words as the lake takes them: a grader may quote half a character."""
    return None if words is None else mended(words)


async def _close(graders: Sequence[Base[Any]]) -> None:
    for each in graders:
        await each.aclose()

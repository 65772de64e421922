"""The exam at the door: champion and candidate answer the gate rows where they are served from.

1. The candidate is loaded on every replica and verified, as for a release.
2. Both are asked every row over HTTP, taking turns who is first: the candidate at the fleet, the
   champion at *its* upstream, which may be somebody else's.
3. One grader compares both answers with what is right; time, tokens and cost are measured there.

- The rows are those of the candidate's snapshot that neither its trainer nor a chooser has seen.
- A champion or a fleet that does not answer is an error, not a failed candidate.
- An answer that is cut short or filtered counts as wrong, on both sides.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from statistics import fmean, median

from evaluators.fill import label_salt
from evaluators.judges import require
from everlearn.config import Service, Upstream
from everlearn.errors import InputError, NotEnoughEvidence, ServingError
from everlearn.graders import ScoreModel
from everlearn.lake.store import Lake
from everlearn.task import Task, heldout_grader
from gateway.routes import ArmRoute
from registry.gate import Evidence, Row, Suite
from registry.versions import BASE, Registry
from serving.ask import Asker, Reply
from serving.exam_rows import ExamRow, read_rows, read_suite
from serving.release.adapters import place
from serving.release.states import Traffic
from serving.release.verbs import arm
from serving.release.verbs import champion as champion_of

Report = Callable[[int, int], None]
"""Rows asked so far, of how many."""


@dataclass(frozen=True)
class Paper:
    """Both answers to one row and what the grader gave them."""

    row: ExamRow
    replies: tuple[Reply, Reply]
    scores: tuple[float | None, float | None]


def examine(
    service: Service,
    task: Task,
    registry: Registry,
    lake: Lake,
    version: str,
    *,
    traffic: Traffic | None,
    report: Report,
) -> Evidence:
    """Hold the exam; ServingError where somebody could not be asked."""
    if version == BASE:
        raise InputError("the base model needs no gate: it is what every version is compared with")
    found = registry.get(task.task, version)
    # A task that has none, or one that may not decide, is told so before anything is loaded.
    decides = task.grader(heldout_grader(task))
    require(
        task,
        [decides],
        f"heldout.grader = {decides.name!r}",
        lake=lambda: lake,
        salt=lambda: label_salt(service),
    )
    rows = read_rows(lake, registry.tags(task.task, version).get("snapshot_id"), task)
    suite = read_suite(task)
    if len(rows) < task.gate.min_rows:
        raise NotEnoughEvidence(
            f"task {task.task}: {len(rows)} gate rows < gate.min_rows {task.gate.min_rows}: more "
            "users must be judged, or a larger heldout.percent, then train again"
        )
    standing = traffic or Traffic(champion=champion_of(registry, task))
    champion, candidate = standing.champion, arm(found)
    problem = place(service, task, standing, candidate, lambda: registry)
    if problem is not None:
        raise ServingError(f"{task.task} version {version}: {problem}")
    return sit(service, task, (champion, candidate), rows, suite, report)


def sit(
    service: Service,
    task: Task,
    arms: tuple[ArmRoute, ArmRoute],
    rows: Sequence[ExamRow],
    suite: Sequence[ExamRow],
    report: Report,
) -> Evidence:
    """Ask both arms, champion and candidate, every row; grade; what the gate decides by."""
    every = [*rows, *suite]
    replies = asyncio.run(_ask_both(service, task, arms, every, report))
    papers = _grade(service, task, heldout_grader(task), every, replies)
    upstreams = [service.upstreams[each.upstream or task.upstream] for each in arms]
    names = (arms[0].version, arms[1].version)
    return evidence(task, names, papers[: len(rows)], papers[len(rows) :], upstreams)


def evidence(
    task: Task,
    names: tuple[str, str],
    papers: Sequence[Paper],
    suite: Sequence[Paper],
    upstreams: Sequence[Upstream],
) -> Evidence:
    """What the gate decides by; names, replies and upstreams are the champion's, then ours."""
    costs = [_cost(papers, side, upstreams[side]) for side in (0, 1)]
    return Evidence(
        task=task.task,
        champion=names[0],
        candidate=names[1],
        heldout_grader=heldout_grader(task),
        rows=[
            Row(
                prompt_key=paper.row.key,
                unit=paper.row.unit,
                champion=paper.scores[0],
                candidate=paper.scores[1],
                source="expert" if paper.row.author == "expert" else "user",
            )
            for paper in papers
        ],
        regression=_suite(suite),
        latency_ratio=_ratio([_seconds(papers, side) for side in (0, 1)]),
        length_ratio=_ratio([_tokens(papers, side) for side in (0, 1)]),
        champion_cost=costs[0],
        candidate_cost=costs[1],
    )


async def _ask_both(
    service: Service,
    task: Task,
    arms: tuple[ArmRoute, ArmRoute],
    rows: Sequence[ExamRow],
    report: Report,
) -> list[tuple[Reply, Reply]]:
    """Every row by both, in the order of the rows."""
    done = 0
    async with AsyncExitStack() as stack:
        askers = [
            await stack.enter_async_context(
                Asker(
                    service.upstreams[each.upstream or task.upstream],
                    each.model,
                    max_tokens=task.train.max_completion_tokens,
                    concurrency=task.gate.concurrency,
                )
            )
            for each in arms
        ]

        async def both(place: int, row: ExamRow) -> tuple[Reply, Reply]:
            nonlocal done
            found: dict[int, Reply] = {}
            # Who is asked first takes turns: load that comes and goes favours nobody.
            for side in (0, 1) if place % 2 else (1, 0):
                found[side] = await askers[side].ask(row.question)
            done += 1
            report(done, len(rows))
            return found[0], found[1]

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(both(*each)) for each in enumerate(rows)]
        except ExceptionGroup as group_error:
            raise _first(group_error) from group_error
        return [each.result() for each in tasks]


def _first(error: ExceptionGroup[Exception]) -> Exception:
    """Of those that failed together, one to tell."""
    found = error.exceptions[0]
    return _first(found) if isinstance(found, ExceptionGroup) else found


def _grade(
    service: Service,
    task: Task,
    name: str,
    rows: Sequence[ExamRow],
    replies: Sequence[tuple[Reply, Reply]],
) -> list[Paper]:
    from evaluators.bulk import grade_all, in_background
    from evaluators.graders import build
    from evaluators.types import sample_of

    grader = task.grader(name)
    lowest = grader.range[0] if isinstance(grader, ScoreModel) else 0.0
    evaluator = build(grader, task, service)
    pairs = [
        (
            sample_of(
                reply.answer.answer, reply.answer.response_text or "", reply.answer.finish_reason
            ),
            row.item,
        )
        for row, both in zip(rows, replies, strict=True)
        for reply in both
    ]
    try:
        scores = iter(grade_all([evaluator], pairs))
    finally:
        in_background(evaluator.aclose())
    papers = []
    for row, both in zip(rows, replies, strict=True):
        values = [next(scores)[0].value for _ in both]
        marks = [
            value if reply.complete else lowest for value, reply in zip(values, both, strict=True)
        ]
        papers.append(Paper(row, both, (marks[0], marks[1])))
    return papers


def _suite(papers: Sequence[Paper]) -> Suite | None:
    scores = [
        [paper.scores[side] or 0.0 for paper in papers if None not in paper.scores]
        for side in (0, 1)
    ]
    if not scores[0]:
        return None
    return Suite(champion=fmean(scores[0]), candidate=fmean(scores[1]), rows=len(scores[0]))


def _answered(papers: Sequence[Paper], side: int) -> list[Reply]:
    """Replies to the rows that both answered."""
    return [
        paper.replies[side]
        for paper in papers
        if all(reply.refused is None for reply in paper.replies)
    ]


def _seconds(papers: Sequence[Paper], side: int) -> float | None:
    replies = _answered(papers, side)
    return median(reply.seconds for reply in replies) if replies else None


def _tokens(papers: Sequence[Paper], side: int) -> float | None:
    replies = _answered(papers, side)
    return fmean(reply.tokens[1] for reply in replies) if replies else None


def _ratio(values: Sequence[float | None]) -> float | None:
    """Candidate's over champion's."""
    champion, candidate = values
    return None if not champion or candidate is None else candidate / champion


def _cost(papers: Sequence[Paper], side: int, upstream: Upstream) -> float | None:
    replies = _answered(papers, side)
    if upstream.price is None or not replies:
        return None
    return fmean(upstream.price.of(*each.tokens, 1000 * each.seconds) for each in replies)

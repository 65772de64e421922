"""Asks the judge of which sort the comments are, each once per judge and prompt.

A comment that cannot be sorted waits with the reason and is tried again, `MAX_TRIES` times in all.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from evaluators.bulk import in_background
from evaluators.judge.comments import MAX_RULES, CommentJudge, version
from everlearn.errors import GraderError, InputError
from everlearn.lake.store import Lake
from everlearn.people import Comments
from everlearn.prompts import last_user_text
from everlearn.task import Task
from trainer.lessons.board import Standing, contradicted, settle
from trainer.lessons.comments import Comment, Known, known, read_comments, refusals
from trainer.lessons.keeping import CONCURRENCY
from trainer.lessons.lift import Lift
from trainer.rows import Row
from trainer.snapshot import answers_of, raters

MAX_TRIES = 3
"""Of sorting one comment with one judge."""
MAX_SORTED = 500
"""Comments sorted in one call, the newest first; the next call goes on."""

Report = Callable[[str], None]


@dataclass(frozen=True)
class Desk:
    """Every comment of a task and what is known of it."""

    comments: Sequence[Comment]
    refused: Mapping[str, str]
    """Why some are not heard."""
    board: Mapping[str, Known]
    clashes: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    new: Collection[str] = ()
    """Those that the judge was asked about just now."""

    def standings(self, lifts: Mapping[str, Lift] | None = None) -> list[Standing]:
        """Where each stands."""
        return settle(self.comments, self.refused, self.board, self.clashes, lifts)


def declared(task: Task) -> Comments:
    """The task's section `comments`; InputError where it has none."""
    if task.comments is None:
        raise InputError(
            f"task {task.task}: declares no `comments`; what people write teaches once a judge is "
            "named: comments: {judge: {upstream: NAME, model: NAME}}"
        )
    return task.comments


def read_desk(lake: Lake, task: Task, released: Collection[str] = ()) -> Desk:
    """What is known now; nobody is asked."""
    comments = read_comments(lake, task.task)
    refused = refusals(comments, declared(task), raters(lake, task, released))
    return Desk(comments, refused, known(lake, task.task))


def sort_desk(desk: Desk, judge: CommentJudge, task: Task, lake: Lake, report: Report) -> Desk:
    """The same with what the judge says of the unsorted ones, and which rules contradict."""
    live = [each for each in desk.comments if each.feedback_id not in desk.refused]
    sorter = version(declared(task))
    new = [each for each in live if _unsorted(desk.board.get(each.feedback_id), sorter)]
    texts = answers_of(lake, task, [each.completion_id for each in new[:MAX_SORTED]])
    new = [each for each in new[:MAX_SORTED] if each.completion_id in texts]
    found = in_background(_sort_all(judge, new, texts, sorter))
    board = {**desk.board, **{each.feedback_id: each for each in found}}
    report(f"{len(desk.comments)} comments, {len(desk.refused)} not heard, {len(new)} sorted now")
    told = [
        (each, rule)
        for each in live
        if (one := board.get(each.feedback_id)) and one.sort == "rule" and (rule := one.rule)
    ]
    clashes = _contradictions(judge, told[:MAX_RULES], report)
    return Desk(desk.comments, desk.refused, board, clashes, {each.feedback_id for each in found})


def _unsorted(known: Known | None, sorter: str) -> bool:
    if known is None or known.sorter != sorter:
        return True
    return known.sort is None and known.tries < MAX_TRIES


async def _sort_all(
    judge: CommentJudge, comments: Sequence[Comment], answers: Mapping[str, Row], sorter: str
) -> list[Known]:
    room = asyncio.Semaphore(CONCURRENCY)

    async def one(comment: Comment) -> Known:
        answer = answers[comment.completion_id]
        request = last_user_text(answer.messages) or ""
        async with room:
            try:
                found = await judge.sort(comment.text, request, answer.completion)
            except GraderError as error:
                return Known(
                    feedback_id=comment.feedback_id,
                    sorter=sorter,
                    error=str(error),
                    why=f"could not be sorted: {error}",
                )
        return Known(
            feedback_id=comment.feedback_id,
            sorter=sorter,
            sort=found.sort,
            rule=found.rule or None,
            reason=found.reason,
            why="not tried yet",
        )

    return list(await asyncio.gather(*map(one, comments)))


def _contradictions(
    judge: CommentJudge, told: Sequence[tuple[Comment, str]], report: Report
) -> dict[str, tuple[str, str]]:
    """Asked rule by rule, the same rule once; a judge that cannot say stops nobody."""
    rules = list(dict.fromkeys(rule for _, rule in told))
    try:
        pairs = in_background(judge.contradictions(rules))
    except GraderError as error:
        report(f"the rules could not be looked through for contradictions: {error}")
        return {}
    clashing = {(rules[one], rules[two]) for one, two in pairs}
    places = range(len(told))
    return contradicted(
        told,
        [
            (one, two)
            for one in places
            for two in places[one + 1 :]
            if (told[one][1], told[two][1]) in clashing or (told[two][1], told[one][1]) in clashing
        ],
    )

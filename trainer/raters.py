"""Whose word each piece of feedback is, and how far it is believed, before rows are made of it."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, replace

from evaluators.suspicion import Vote
from evaluators.trust import Standing, review
from everlearn.opinion import OffScale, value_of
from everlearn.task import Task
from trainer.judge import Judgement
from trainer.rows import Row, fold


def rater_of(given: Judgement, answer: Row) -> str:
    """Who said it: by name, else by key, else whoever asked."""
    return given.author_id or (f"/{given.key_id}" if given.key_id else answer.unit)


def weighed(
    given: Sequence[Judgement],
    answers: Mapping[str, Row],
    task: Task,
    *,
    released: Collection[str] = (),
) -> list[Judgement]:
    """Every piece with the weight of its rater; an expert's weighs one."""
    found = standings(given, answers, task, released=released)
    unknown = Standing(0.5)

    def weigh(each: Judgement) -> Judgement:
        answer = answers.get(each.completion_id)
        if each.author == "expert" or answer is None:
            return each
        standing = found.get(rater_of(each, answer), unknown)
        told = 1.0 if each.weight is None else each.weight
        return replace(
            each,
            weight=told * standing.weight,
            quarantined=standing.quarantined,
            met=standing.met,
        )

    return [weigh(each) for each in given]


def held(told: Iterable[Judgement], answers: Mapping[str, Row]) -> list[str]:
    """Raters in quarantine: what they say of others' answers leaves those as ordinary as they were,
    and none of their own is."""
    return sorted(
        {
            rater_of(each, answers[each.completion_id])
            for each in told
            if each.quarantined and each.completion_id in answers
        }
    )


def standings(
    given: Iterable[Judgement],
    answers: Mapping[str, Row],
    task: Task,
    *,
    released: Collection[str] = (),
) -> dict[str, Standing]:
    """By rater."""
    votes = [
        vote
        for each in given
        if each.completion_id in answers
        for vote in _votes(each, answers[each.completion_id], task)
    ]
    return review(votes, max_per_minute=task.trust.max_per_minute, released=released)


def _votes(given: Judgement, answer: Row, task: Task) -> list[Vote]:
    rater, expert = rater_of(given, answer), given.author == "expert"
    at = given.received_at.timestamp() if given.received_at is not None else 0.0
    item = (answer.key, fold(answer.completion))
    if given.kind == "correction":
        right = fold(given.value_text or "")
        if not expert or not right:
            return []
        good = Vote(rater, (answer.key, right), True, at, expert)
        return [good] if right == item[1] else [good, Vote(rater, item, False, at, expert)]
    if given.kind == "preference":
        # What it teaches is the preferred answer.
        return [Vote(rater, item, True, at, expert, own=rater == answer.unit)]
    try:
        value = value_of(asdict(given), task.scales)
    except OffScale:
        return []
    if value is None or value == 0.5:
        return []
    return [Vote(rater, item, value > 0.5, at, expert, own=rater == answer.unit)]

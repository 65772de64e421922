"""What the feedback on one answer amounts to: pure functions, an expert outweighs users."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from trainer.rows import Row, fold


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One piece of feedback on one answer, retracted and superseded ones left out."""

    completion_id: str
    kind: str
    """binary, correction or preference."""
    author: str = "end_user"
    name: str = "thumbs"
    value_bool: bool | None = None
    value_text: str | None = None
    other_completion_id: str | None = None
    weight: float | None = 1.0
    received_at: Any = None


def judged(answer: Row, given: Sequence[Judgement]) -> Row | None:
    """The answer as `accepted`, `rejected` or `correction`; None when the voices are even.

    `given` is in order of arrival: the latest word of an expert counts. A correction by a user
    is not evidence enough to be taught; it counts as a rejection.
    """
    experts = [each for each in given if each.author == "expert"]
    if experts:
        return _by_expert(answer, experts)
    total = sum(_sign(each) * _trust(each) for each in given)
    if total == 0:
        return None
    return _accepted(answer, "end_user", total) if total > 0 else _rejected(answer, -total)


def preferred(answer: Row, other: Row, judgement: Judgement) -> Row | None:
    """`answer` was preferred to `other`; None unless both answer the same prompt."""
    if answer.key != other.key or fold(answer.completion) == fold(other.completion):
        return None
    return replace(
        answer,
        kind="preference",
        target=answer.completion,
        completion=other.completion,
        author="expert" if judgement.author == "expert" else "end_user",
        weight=_trust(judgement),
        trainable=answer.trainable and other.trainable,
    )


def _by_expert(answer: Row, experts: Sequence[Judgement]) -> Row:
    corrections = [each.value_text for each in experts if each.kind == "correction"]
    right = corrections[-1] if corrections else None
    if right and fold(right) != fold(answer.completion):
        return replace(answer, kind="correction", target=right, author="expert")
    if right or _sign(experts[-1]) > 0:
        return _accepted(answer, "expert", 1.0)
    return replace(_rejected(answer, 1.0), author="expert")


def _accepted(answer: Row, author: str, weight: float) -> Row:
    return replace(answer, kind="accepted", target=answer.completion, author=author, weight=weight)


def _rejected(answer: Row, weight: float) -> Row:
    return replace(answer, kind="rejected", author="end_user", weight=weight)


def _sign(judgement: Judgement) -> int:
    return 1 if judgement.kind == "binary" and judgement.value_bool else -1


def _trust(judgement: Judgement) -> float:
    return 1.0 if judgement.weight is None else judgement.weight

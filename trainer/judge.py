"""What the feedback on one answer amounts to: pure functions over `everlearn.opinion`."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from everlearn import opinion
from trainer.rows import Row, accept, fold, message_of


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One piece of feedback on one answer, retracted and superseded ones left out."""

    completion_id: str
    kind: str
    """binary, scalar, implicit, correction or preference."""
    author: str = "end_user"
    name: str = "thumbs"
    value_bool: bool | None = None
    value_number: float | None = None
    value_text: str | None = None
    other_completion_id: str | None = None
    weight: float | None = 1.0
    received_at: Any = None
    author_id: str | None = None
    key_id: str | None = None
    quarantined: str | None = None
    """Why this rater is not heard."""
    met: bool = False
    """Experts have found something of this rater's to be as he said."""


def judged(
    answer: Row, given: Sequence[Judgement], scales: opinion.Scales = opinion.SCALES
) -> Row | None:
    """The answer as `accepted`, `rejected` or `correction`; None when nobody said anything about
    it, or the voices are even.

    `given` is in order: the latest word counts. A user's correction is a suggestion: not taught.
    """
    names = {each.name for each in given}
    heard, _ = opinion.voices(map(asdict, given), answer.completion, names, scales)
    found = opinion.opinion(heard)
    if found is None or found.margin == 0:
        return _unheard(answer, given, heard)
    if found.expert:
        return _by_expert(answer, found)
    if found.margin > 0:
        return _accepted(answer, "end_user", found.margin)
    return _rejected(answer, "end_user", -found.margin)


def suggested(given: Iterable[Judgement]) -> bool:
    """Whether nothing but users' corrections was said."""
    return all(each.kind == "correction" and each.author != "expert" for each in given)


def preferred(answer: Row, other: Row, judgement: Judgement) -> Row | None:
    """`answer` was preferred to `other`; None unless both answer the same prompt."""
    if answer.key != other.key or fold(answer.completion) == fold(other.completion):
        return None
    return replace(
        answer,
        kind="preference",
        target=answer.completion,
        target_message=answer.said,
        completion=other.completion,
        said=other.said,
        author="expert" if judgement.author == "expert" else "end_user",
        weight=_trust(judgement),
        trainable=answer.trainable and other.trainable,
        forced=answer.forced or other.forced,
    )


def _by_expert(answer: Row, found: opinion.Opinion) -> Row:
    right = found.correction
    if right and fold(right) != fold(answer.completion):
        message = message_of(right, answer.said)
        return replace(
            answer, kind="correction", target=right, target_message=message, author="expert"
        )
    if found.value > 0.5:
        return _accepted(answer, "expert", 1.0)
    return _rejected(answer, "expert", 1.0)


def _unheard(answer: Row, given: Sequence[Judgement], heard: Sequence[opinion.Voice]) -> Row | None:
    """Dropped with its reason, where there is one to tell."""
    if not heard and given and suggested(given):
        return replace(answer, dropped_reason="suggestion")
    if heard and all(voice.weight <= 0 for voice in heard):
        reasons = [each.quarantined for each in given if each.quarantined]
        return replace(
            answer, dropped_reason=f"quarantined_{reasons[-1]}" if reasons else "untrusted"
        )
    return None


def _accepted(answer: Row, author: str, weight: float) -> Row:
    return accept(answer, author=author, weight=weight)


def _rejected(answer: Row, author: str, weight: float) -> Row:
    return replace(answer, kind="rejected", author=author, weight=weight)


def _trust(judgement: Judgement) -> float:
    return 1.0 if judgement.weight is None else judgement.weight

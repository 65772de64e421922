"""Where every comment stands and why: pure functions.

A comment is `refused` (it will not teach), `waiting` (it may), `teaching` (its lessons are taught)
or `learned` (the champion keeps to it untold; its lessons stay, for every candidate starts fresh).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trainer.lessons.comments import Comment, Known
from trainer.lessons.lift import Lift

CORRECTIONS = ""
"""Under which name the lift of all corrections together stands; a rule's is its text."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One comment."""

    comment: Comment
    sort: str | None = None
    rule: str | None = None
    state: str
    why: str
    lift: Lift | None = None
    open: bool = False
    """It is for the model to show whether it can follow."""

    @property
    def teaches(self) -> bool:
        """Its lessons are taught."""
        return self.open and self.state in ("teaching", "learned")


def settle(
    comments: Sequence[Comment],
    refused: Mapping[str, str],
    board: Mapping[str, Known],
    clashes: Mapping[str, tuple[str, str]],
    lifts: Mapping[str, Lift] | None = None,
) -> list[Standing]:
    """Every comment; `refused` and `clashes` by feedback_id, `lifts` by rule."""
    return [
        _settled(
            comment,
            board.get(comment.feedback_id, Known(feedback_id=comment.feedback_id)),
            refused.get(comment.feedback_id),
            clashes.get(comment.feedback_id),
            lifts or {},
        )
        for comment in comments
    ]


def contradicted(
    told: Sequence[tuple[Comment, str]], pairs: Sequence[tuple[int, int]]
) -> dict[str, tuple[str, str]]:
    """State and reason of the rules that contradict each other; `told` are the newest first.

    Of one rater the later word counts, an expert's before a user's; two experts must agree.
    """
    found: dict[str, tuple[str, str]] = {}
    for one, two in sorted(pairs):
        (newer, rule), (older, other) = told[one], told[two]
        same = (newer.author, newer.rater) == (older.author, older.rater)
        if same or (newer.expert and not older.expert):
            found[older.feedback_id] = ("refused", _against(newer, rule))
        elif older.expert and not newer.expert:
            found[newer.feedback_id] = ("refused", _against(older, other))
        else:
            for comment, against, text in ((newer, older, other), (older, newer, rule)):
                why = f"{_against(against, text)}: an expert decides, by retracting one of them"
                found.setdefault(comment.feedback_id, ("waiting", why))
    return found


def _against(comment: Comment, rule: str) -> str:
    return f"contradicts {comment.feedback_id} of {comment.rater}: {rule!r}"


def _settled(
    comment: Comment,
    known: Known,
    refused: str | None,
    clash: tuple[str, str] | None,
    lifts: Mapping[str, Lift],
) -> Standing:
    if refused is not None:
        return Standing(comment=comment, state="refused", why=refused)
    sort, rule = known.sort, known.rule if known.sort == "rule" else None
    if sort is None:
        why = f"could not be sorted: {known.error}" if known.error else "not sorted yet"
        return Standing(comment=comment, state="waiting", why=why)
    if sort == "nothing":
        why = f"asks for nothing: {known.reason or 'so says the judge'}"
        return Standing(comment=comment, sort=sort, state="refused", why=why)
    if sort == "displeasure":
        return Standing(comment=comment, sort=sort, state="teaching", why="counts as a thumb down")
    if clash is not None:
        return Standing(comment=comment, sort=sort, rule=rule, state=clash[0], why=clash[1])
    lift = lifts.get(CORRECTIONS if rule is None else rule)
    state, why = (lift.state, lift.why) if lift is not None else (known.state, known.why)
    return Standing(
        comment=comment, sort=sort, rule=rule, state=state, why=why, lift=lift, open=True
    )

"""Lessons as rows of a snapshot, and what they leave of the others: pure, but for reading.

- A lesson is a correction whose right answer the model itself gave, with the comments in its
  prompt; it is taught for the prompt without them.
- While comments teach, replay is of prompts that they were found not to touch: an old answer to
  any other would teach the opposite. There it is a contrast, by which a method learns where the
  rules do not hold: what the model says by itself, surely, rather than what was sampled once, for
  a rule's answer is often the next likely one, and a sample of it would teach the rule there too.
- A user's thumb on an answer that a comment has replaced is not taught.
- A comment that was taken back, or teaches no more, takes its whole round with it: the others were
  answered with it in mind.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from everlearn.lake.store import Lake
from trainer.judge import Judgement
from trainer.rows import Row, fold, parsed

AUTHOR = "comment"
HINDSIGHT: Final = "hindsight"
"""Verdict on a logged answer that the rules make likelier or less likely."""

_ROUND = """
    SELECT * FROM lessons WHERE round_id = (
        SELECT arg_max(round_id, created_at) FROM lessons WHERE task = ?)
    ORDER BY completion_id
"""
_COUNTING = """
    SELECT feedback_id FROM feedback_joined SEMI JOIN (
        SELECT feedback_id FROM comments WHERE task = ? GROUP BY feedback_id
        HAVING arg_max(state, created_at) IN ('teaching', 'learned')) USING (feedback_id)
    WHERE feedback_id IN (SELECT unnest(?))
"""
_DISPLEASED = """
    SELECT f.completion_id, f.author, f.author_id, f.key_id, f.weight, f.received_at
    FROM feedback_joined f JOIN (
        SELECT feedback_id, arg_max(sort, created_at) AS sort,
            arg_max(state, created_at) AS state
        FROM comments WHERE task = ? GROUP BY feedback_id) s USING (feedback_id)
    WHERE f.task = ? AND s.sort = 'displeasure' AND s.state = 'teaching'
    ORDER BY f.given_at, f.feedback_id
"""


@dataclass(frozen=True)
class Lesson:
    """One prompt answered again."""

    completion_id: str
    original: str
    revised: str | None
    verdict: str
    rules: tuple[str, ...] = ()
    """By hindsight: what stands in the prompt of the teacher."""
    signal: float | None = None
    """By hindsight: mean log-ratio of a token, told against untold."""

    @property
    def better(self) -> bool:
        """It is taught."""
        return self.verdict in ("better", HINDSIGHT)


@dataclass(frozen=True)
class Round:
    """The latest of a task."""

    lessons: tuple[Lesson, ...] = ()
    comments: frozenset[str] = frozenset()
    teacher: str = ""


def latest(lake: Lake, task: str) -> Round:
    """Empty when there is none, or one of its comments was taken back or teaches no more."""
    records = lake.read(_ROUND, [task]).to_pylist()
    named = {name for record in records for name in json.loads(record["comments"] or "[]")}
    there = set(lake.read(_COUNTING, [task, sorted(named)]).column("feedback_id").to_pylist())
    if not records or named - there:
        return Round()
    fields = ("completion_id", "original", "revised", "verdict")
    lessons = tuple(
        Lesson(**{name: record[name] for name in fields}, **_weighed(record)) for record in records
    )
    return Round(lessons, frozenset(named), records[0]["teacher"])


def _weighed(record: Mapping[str, Any]) -> dict[str, Any]:
    scores = parsed(record["scores"]) or {}
    return {"rules": tuple(scores.get("rules", ())), "signal": scores.get("signal")}


def displeased(lake: Lake, task: str, name: str) -> list[Judgement]:
    """Comments that only dislike, as a thumb down each under feedback `name`."""
    return [
        Judgement(kind="binary", name=name, value_bool=False, **record)
        for record in lake.read(_DISPLEASED, [task, task]).to_pylist()
    ]


def taught(rows: Sequence[Row], answers: Mapping[str, Row], made: Round) -> list[Row]:
    """The rows, with the lessons beside them; `answers` are those that the lessons are about."""
    if not any(lesson.better for lesson in made.lessons):
        return list(rows)
    there = [each for each in made.lessons if each.completion_id in answers]
    lessons = [_row(answers[each.completion_id], each) for each in there if each.better]
    replaced = {
        answers[each.completion_id].key
        for each in there
        if each.better and (each.signal is None or each.signal < 0)
    }
    untouched = {
        answers[each.completion_id].key: each.original for each in there if each.verdict == "kept"
    }

    def left(row: Row) -> Row:
        if row.kind == "replay":
            own = untouched.get(row.key)
            dropped = replace(row, dropped_reason="comment_may_apply")
            return dropped if own is None else _contrast(row, own)
        users = row.kind in ("accepted", "preference") and row.author != "expert"
        if users and row.key in replaced:
            return replace(row, dropped_reason="comment_disagrees")
        return row

    return [*(left(row) for row in rows), *lessons]


def _row(answer: Row, lesson: Lesson) -> Row:
    if lesson.verdict == HINDSIGHT:
        return replace(
            answer, kind=HINDSIGHT, author=AUTHOR, weight=1.0, raters=(), rules=lesson.rules
        )
    return replace(
        answer,
        kind="correction",
        completion=lesson.original,
        said=None,
        target=lesson.revised,
        target_message=None,
        author=AUTHOR,
        weight=1.0,
        raters=(),
        finish_reason=None,
        prompt_token_ids=None,
        completion_token_ids=None,
        verdicts={},
    )


def _contrast(row: Row, own: str) -> Row:
    """An ordinary answer as what the model says by itself; calls of tools stay as they were."""
    if (row.said or {}).get("tool_calls") or fold(own) == fold(row.completion):
        return replace(row, author=AUTHOR)
    return replace(
        row,
        completion=own,
        said=None,
        author=AUTHOR,
        prompt_token_ids=None,
        completion_token_ids=None,
        logprobs=None,
        verdicts={},
    )


def documents(
    rows: Sequence[tuple[Row, Lesson, Mapping[str, Any]]], head: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """For table `lessons`; `head` is what all of a round share."""
    return [
        {
            **head,
            "completion_id": lesson.completion_id,
            "unit": row.unit,
            "original": lesson.original,
            "revised": lesson.revised,
            "verdict": lesson.verdict,
            "scores": scores,
        }
        for row, lesson, scores in rows
    ]

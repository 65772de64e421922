"""The two windows, read from the lake: their rows and nothing else of it.

The reference is fixed until somebody accepts a change, so that a slow drift adds up. What is never
an answer to live traffic (asked in the shadow, imported, rejected, passed on) or is a candidate's
does not count. Feedback counts that came within `feedback_seconds` of the answer, on answers that
are older than that: the newest rows have not had less of it, they have had less time.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from evaluators.drift.describe import (
    Values,
    add_metadata,
    add_unknown_words,
    describe,
    metadata_of,
    question,
)
from everlearn.lake.schema import feedback_state
from everlearn.lake.store import Lake
from everlearn.opinion import OffScale, value_of
from everlearn.task import Task

_LIVE = """task = ? AND status NOT IN ('shadow', 'imported', 'rejected', 'passed')
    AND arm IS DISTINCT FROM 'challenger'"""
_OLDEST = f"""
SELECT min(received_at) AS oldest FROM (
    SELECT received_at FROM completions WHERE {_LIVE} AND received_at > ? AND received_at <= ?
    ORDER BY received_at DESC LIMIT ?)
"""
"""Of the newest rows: one narrow column is looked through, then whole rows are read from there."""
_ROWS = f"""
SELECT completion_id, unit, version, received_at, status, messages, tools, answer, response_text,
    finish_reason, metadata, conversation_id, latency_ms, first_token_ms, prompt_tokens,
    completion_tokens, prompt_token_ids IS NOT NULL OR NULL AS prompt_token_ids,
    logprobs IS NOT NULL OR NULL AS logprobs, template_hash
FROM completions WHERE {_LIVE} AND received_at >= ? AND received_at <= ?
ORDER BY received_at DESC, completion_id DESC LIMIT ?
"""
_SCORES = """
SELECT completion_id, evaluator, arg_max(value, created_at) AS value FROM scores
WHERE task = ? AND completion_id BETWEEN ? AND ?
    AND completion_id IN (SELECT unnest(?::VARCHAR[])) AND value IS NOT NULL
GROUP BY completion_id, evaluator
"""
_SAID = """(SELECT * FROM feedback WHERE target BETWEEN ? AND ?
    AND target IN (SELECT unnest(?::VARCHAR[])))"""
_FEEDBACK = f"SELECT * FROM ({feedback_state(_SAID)}) WHERE state = 'joined' AND NOT ambiguous"

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Bounds(NamedTuple):
    """Received after `since` and not after `until`."""

    since: datetime
    until: datetime


Rows = list[dict[str, Any]]


def read(lake: Lake, task: str, bounds: Bounds, limit: int) -> Rows:
    """The newest `limit` live rows within the bounds, oldest first."""
    oldest = lake.read(_OLDEST, [task, *bounds, limit])["oldest"][0].as_py()
    if oldest is None:
        return []
    rows = lake.read(_ROWS, [task, oldest, bounds.until, limit]).to_pylist()
    return list(reversed(rows))


def around(rows: Rows) -> Bounds:
    """Bounds that hold exactly these rows."""
    instant = timedelta(microseconds=1)
    return Bounds(rows[0]["received_at"] - instant, rows[-1]["received_at"])


def independent(reference: Rows, window: Rows) -> tuple[Rows, Rows, bool]:
    """One row of each user, where that leaves half of both windows; else all rows, and False."""
    thinned = [_one_each(reference), _one_each(window)]
    if all(2 * len(t) >= len(r) for t, r in zip(thinned, (reference, window), strict=True)):
        return thinned[0], thinned[1], True
    return reference, window, False


def described(
    lake: Lake, task: Task, reference: Rows, window: Rows
) -> tuple[list[Values], list[Values]]:
    """Both windows as values, scores and feedback with them."""
    sides = []
    for rows in (reference, window):
        values = [describe(row) for row in rows]
        _add_scores(lake, task, rows, values)
        _add_feedback(lake, task, rows, values)
        sides.append(values)
    questions = [[question(row) for row in rows] for rows in (reference, window)]
    metadata = [[metadata_of(row) for row in rows] for rows in (reference, window)]
    before, now = sides
    add_unknown_words(_pairs(questions[0], before), _pairs(questions[1], now))
    add_metadata(_pairs(metadata[0], before), _pairs(metadata[1], now))
    return before, now


def _pairs(left: Sequence[Any], right: Sequence[Values]) -> list[tuple[Any, Values]]:
    return list(zip(left, right, strict=True))


def _one_each(rows: Rows) -> Rows:
    """The first row of each unit."""
    first = {row["unit"] or row["completion_id"]: row for row in reversed(rows)}
    return list(reversed(first.values()))


def _ids(rows: Rows) -> list[Any]:
    ids = sorted(row["completion_id"] for row in rows)
    return [ids[0], ids[-1], ids]


def _add_scores(lake: Lake, task: Task, rows: Rows, values: Sequence[Values]) -> None:
    by_id = dict(zip((row["completion_id"] for row in rows), values, strict=True))
    for row in lake.read(_SCORES, [task.task, *_ids(rows)]).to_pylist():
        by_id[row["completion_id"]][f"score.{row['evaluator']}"] = row["value"]


def _add_feedback(lake: Lake, task: Task, rows: Rows, values: Sequence[Values]) -> None:
    patience = timedelta(seconds=task.drift.feedback_seconds)
    settled = datetime.now(UTC) - patience
    by_id = {
        row["completion_id"]: (row["received_at"], each)
        for row, each in zip(rows, values, strict=True)
        if row["received_at"] <= settled
    }
    for _, each in by_id.values():
        each["feedback"] = False
    for row in lake.read(_FEEDBACK, _ids(rows)).to_pylist():
        asked, each = by_id.get(row["target"], (EPOCH, {}))
        if row["received_at"] > asked + patience:
            continue
        each["feedback"] = True
        value = _value(row, task)
        if value is not None:
            each[f"feedback.{row['name']}"] = value


def _value(row: Mapping[str, Any], task: Task) -> float | None:
    try:
        return value_of(row, task.scales)
    except OffScale:
        return None

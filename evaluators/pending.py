"""What is still to be scored: one query over the lake, its rows as (sample, item).

A completion is due for a grader when it has no row of that grader's version, when only the seed is
there, when what the row saw has changed (feedback, reference), or when the grader itself failed,
`MAX_FAILURES` times at most and with growing pauses.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from evaluators.graders.base import Base
from evaluators.references import Reference
from evaluators.types import Item, Sample
from everlearn.prompts import last_user_text, prompt_key
from everlearn.store import Lake

MAX_FAILURES = 5
RETRY_SECONDS = 15.0
"""Pause after the first failure of a grader; it doubles with each."""

_ANSWERED = """
    SELECT completion_id, received_at FROM completions
    WHERE task = ? AND status IN ('ok', 'shadow') AND response_text IS NOT NULL
        AND received_at >= ?
"""
_GRADERS = """
    SELECT unnest(?::VARCHAR[]) AS evaluator, unnest(?::VARCHAR[]) AS evaluator_version,
        unnest(?::BOOLEAN[]) AS by_feedback, unnest(?::BOOLEAN[]) AS by_reference
"""
_SQL = f"""
WITH answered AS ({_ANSWERED}),
graders AS ({_GRADERS}),
known AS (SELECT unnest(?::VARCHAR[]) AS prompt, unnest(?::VARCHAR[]) AS digest),
said AS (
    SELECT completion_id, md5(string_agg(feedback_id, ',' ORDER BY feedback_id)) AS digest,
        to_json(list({{kind: kind, name: name, value_bool: value_bool, value_number: value_number,
            value_text: value_text, author: author, author_id: author_id, weight: weight}}
            ORDER BY coalesce(occurred_at, received_at), feedback_id)) AS feedback
    FROM feedback_joined WHERE task = ? GROUP BY completion_id
),
latest AS (
    SELECT completion_id, evaluator, max(created_at) AS created_at,
        arg_max({{context: context, failed: error IS NOT NULL}}, created_at) AS row,
        count(error) AS failures
    FROM scores JOIN graders USING (evaluator, evaluator_version)
    WHERE task = ? GROUP BY ALL
),
due AS (
    SELECT a.completion_id, a.received_at, list(g.evaluator) AS evaluators
    FROM answered a CROSS JOIN graders g
        LEFT JOIN latest l ON l.completion_id = a.completion_id AND l.evaluator = g.evaluator
        LEFT JOIN said s ON s.completion_id = a.completion_id
        LEFT JOIN known k ON k.prompt = split_part(l.row.context, '|', 2)
    WHERE l.row.context IS NULL
        OR (g.by_feedback AND split_part(l.row.context, '|', 1) <> coalesce(s.digest, ''))
        OR (g.by_reference AND split_part(l.row.context, '|', 3) <> coalesce(k.digest, ''))
        OR (l.row.failed AND l.failures < {MAX_FAILURES}
            AND epoch(?::TIMESTAMPTZ) - epoch(l.created_at)
                > {RETRY_SECONDS} * 2 ** (l.failures - 1))
    GROUP BY ALL ORDER BY a.received_at, a.completion_id LIMIT ?
)
SELECT d.completion_id, d.evaluators, c.messages, c.response_text, c.metadata, c.version, c.arm,
    s.digest AS feedback_digest, s.feedback
FROM due d JOIN completions c USING (completion_id) LEFT JOIN said s USING (completion_id)
"""

_SEED = f"""
INSERT INTO scores (completion_id, task, evaluator, evaluator_version, reason, created_at)
SELECT a.completion_id, ?, g.evaluator, g.evaluator_version, 'expected', ?::TIMESTAMPTZ
FROM ({_ANSWERED}) a CROSS JOIN ({_GRADERS}) g
    ANTI JOIN scores s ON s.completion_id = a.completion_id AND s.evaluator = g.evaluator
        AND s.evaluator_version = g.evaluator_version
"""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Pending:
    """One completion, the graders that are due and what they may know."""

    completion_id: str
    evaluators: tuple[str, ...]
    sample: Sample
    item: Item
    feedback_digest: str
    prompt: str
    reference_digest: str

    def context(self, grader: Base[Any]) -> str:
        """What a verdict of `grader` depends on that may still change."""
        said = self.feedback_digest if grader.needs_feedback else ""
        if not grader.needs_reference:
            return f"{said}||"
        return f"{said}|{self.prompt}|{self.reference_digest}"


def pending(
    lake: Lake,
    task: str,
    graders: Sequence[Base[Any]],
    known: Mapping[str, Reference],
    *,
    since: datetime | None,
    limit: int,
) -> list[Pending]:
    """The oldest `limit` completions that are due for some of `graders`."""
    digests = [reference.digest for reference in known.values()]
    now = datetime.now(UTC)
    params = [
        task,
        since or EPOCH,
        *_columns(graders),
        list(known),
        digests,
        task,
        task,
        now,
        limit,
    ]
    return [_pending(row, known) for row in lake.read(_SQL, params).to_pylist()]


def seed(lake: Lake, task: str, graders: Sequence[Base[Any]], since: datetime | None) -> int:
    """Write an unscored row for every expected score that has none; how many."""
    params = [task, datetime.now(UTC), task, since or EPOCH, *_columns(graders)]
    rows = lake.commit(lambda transaction: transaction.query(_SEED, params))
    return int(next(iter(rows[0].values()))) if rows else 0


def _columns(graders: Sequence[Base[Any]]) -> list[list[Any]]:
    return [
        [grader.name for grader in graders],
        [grader.version for grader in graders],
        [grader.needs_feedback for grader in graders],
        [grader.needs_reference for grader in graders],
    ]


def _pending(row: Mapping[str, Any], known: Mapping[str, Reference]) -> Pending:
    messages = json.loads(row["messages"] or "[]")
    prompt = prompt_key(messages)
    reference = known.get(prompt)
    feedback = json.loads(row["feedback"] or "[]")
    item = {
        "messages": messages,
        "prompt": last_user_text(messages),
        "response": row["response_text"],
        "reference": reference.text if reference else None,
        "correction": _latest(feedback, "correction", "value_text"),
        "thumbs": _latest(feedback, "binary", "value_bool"),
        "metadata": json.loads(row["metadata"] or "{}"),
        "feedback": feedback,
        "version": row["version"],
        "arm": row["arm"],
    }
    return Pending(
        completion_id=row["completion_id"],
        evaluators=tuple(row["evaluators"]),
        sample=Sample(row["response_text"]),
        item=item,
        feedback_digest=row["feedback_digest"] or "",
        prompt=prompt,
        reference_digest=reference.digest if reference else "",
    )


def _latest(feedback: Sequence[Mapping[str, Any]], kind: str, key: str) -> Any:
    values = [row[key] for row in feedback if row["kind"] == kind and row[key] is not None]
    return values[-1] if values else None

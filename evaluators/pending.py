"""What is still to be scored: one query over the lake, its rows as (sample, item).

An answer in the shadow of a release is compared with the one that was shown, and not scored.
A completion is due for a grader when it has no row of that grader's version, when only the seed is
there, when what the row saw has changed (feedback, reference), or when the grader itself failed,
`MAX_FAILURES` times at most and with growing pauses. What a judge had no money for is no failure:
it is due as soon as there is some again.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from evaluators.graders.base import Base
from evaluators.judge.budget import SPENT
from evaluators.references import Reference, asked
from evaluators.types import Item, Sample, sample_of
from everlearn.lake.schema import feedback_state
from everlearn.lake.store import Lake
from everlearn.prompts import last_user_text, prompt_key
from everlearn.tolerant import loads

MAX_FAILURES = 5
RETRY_SECONDS = 15.0
"""Pause after the first failure of a grader; it doubles with each."""

_ANSWERED = """
    SELECT completion_id, received_at FROM completions
    WHERE task = $task
        AND (status = 'ok' OR (status = 'shadow' AND error IS NULL AND release IS NULL))
        AND response_text IS NOT NULL AND received_at >= $since
"""
_AMONG = """ AND {id} BETWEEN $low AND $high AND {id} IN (SELECT unnest($ids::VARCHAR[]))"""
"""The bounds let the lake skip files: ids begin with their time."""
_FAILED = """
    SELECT DISTINCT completion_id FROM scores JOIN ({graders}) USING (evaluator, evaluator_version)
    WHERE task = $task AND error IS NOT NULL
"""
_GRADERS = """
    SELECT unnest($names::VARCHAR[]) AS evaluator,
        unnest($versions::VARCHAR[]) AS evaluator_version,
        unnest($by_feedback::BOOLEAN[]) AS by_feedback,
        unnest($by_reference::BOOLEAN[]) AS by_reference
"""
_FEEDBACK = "FROM ({states}) WHERE target IS NOT NULL AND NOT ambiguous"
_NO_FEEDBACK = """FROM (SELECT NULL::VARCHAR AS target, NULL::VARCHAR AS state,
    received_at AS given_at, * FROM feedback) WHERE false"""
_SQL = """
WITH graders AS ({graders}),
said AS MATERIALIZED (
    SELECT target, state, feedback_id, kind, name, value_bool, value_number, value_text, author,
        author_id, key_id, weight, given_at {feedback}
),
answered AS ({answered}),
opinions AS (
    SELECT target AS completion_id,
        md5(string_agg(feedback_id, ',' ORDER BY feedback_id)) AS digest,
        to_json(list({{kind: kind, name: name, value_bool: value_bool, value_number: value_number,
            value_text: value_text, author: author, author_id: author_id, key_id: key_id,
            weight: weight}}
            ORDER BY given_at, feedback_id)) AS feedback
    FROM said WHERE state = 'joined' GROUP BY target
),
known AS (
    SELECT unnest($prompts::VARCHAR[]) AS prompt, unnest($digests::VARCHAR[]) AS digest
),
latest AS (
    SELECT completion_id, evaluator, max(created_at) AS created_at,
        arg_max({{context: context, failed: error IS NOT NULL,
            unpaid: contains(error, $unpaid)}}, created_at) AS row,
        count(error) FILTER (NOT contains(error, $unpaid)) AS failures
    FROM scores JOIN graders USING (evaluator, evaluator_version)
    WHERE task = $task AND completion_id IN (SELECT completion_id FROM answered) {among}
    GROUP BY ALL
),
due AS (
    SELECT a.completion_id, a.received_at, list(g.evaluator) AS evaluators
    FROM answered a CROSS JOIN graders g
        LEFT JOIN latest l ON l.completion_id = a.completion_id AND l.evaluator = g.evaluator
        LEFT JOIN opinions o ON o.completion_id = a.completion_id
        LEFT JOIN known k ON k.prompt = split_part(l.row.context, '|', 2)
    WHERE l.row.context IS NULL
        OR (g.by_feedback AND split_part(l.row.context, '|', 1) <> coalesce(o.digest, ''))
        OR (g.by_reference AND split_part(l.row.context, '|', 3) <> coalesce(k.digest, ''))
        OR (l.row.unpaid AND l.created_at < $paid_since)
        OR (l.row.failed AND NOT l.row.unpaid AND l.failures < {max_failures}
            AND epoch($now::TIMESTAMPTZ) - epoch(l.created_at)
                > {retry_seconds} * 2 ** (l.failures - 1))
    GROUP BY ALL ORDER BY a.received_at, a.completion_id LIMIT $limit
)
SELECT d.completion_id, d.evaluators, c.request_id, c.messages, c.tools, c.answer, c.response_text,
    c.finish_reason, c.metadata, c.version, c.arm, o.digest AS feedback_digest, o.feedback
FROM due d JOIN completions c USING (completion_id) LEFT JOIN opinions o USING (completion_id)
WHERE true {among_c}
ORDER BY d.received_at, d.completion_id
"""
_SEED = f"""
INSERT INTO scores (completion_id, task, evaluator, evaluator_version, reason, created_at)
SELECT a.completion_id, $task, g.evaluator, g.evaluator_version, 'expected', $now::TIMESTAMPTZ
FROM ({_ANSWERED} {{among}}) a CROSS JOIN ({_GRADERS}) g
    ANTI JOIN scores s ON s.completion_id = a.completion_id AND s.evaluator = g.evaluator
        AND s.evaluator_version = g.evaluator_version
"""

_WAITING = f"""
WITH seen AS (
    SELECT completion_id, count(DISTINCT evaluator) AS graders
    FROM scores JOIN ({_GRADERS}) USING (evaluator, evaluator_version)
    WHERE task = $task AND context IS NOT NULL {{among}} GROUP BY completion_id
)
SELECT count(*) AS answers, min(received_at) AS oldest
FROM ({_ANSWERED} {{among}}) LEFT JOIN seen USING (completion_id)
WHERE coalesce(graders, 0) < len($names::VARCHAR[])
"""

_NAME = re.compile(r"\$([a-z_]+)")

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Changes:
    """Completions that came, or of which somebody said something, since the lake was last looked
    through; experts: some of it by an expert."""

    completions: frozenset[str]
    experts: bool


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
    request_id: str | None = None
    fault: str | None = None
    """Why the row cannot be read: it is unscored for that reason, until something changes."""

    def context(self, grader: Base[Any]) -> str:
        """What a verdict of `grader` depends on that may still change."""
        said = self.feedback_digest if grader.needs_feedback else ""
        if not grader.needs_reference:
            return f"{said}||"
        return f"{said}|{self.prompt}|{self.reference_digest}"


def changes(lake: Lake, after: int, until: int) -> Changes:
    """What the lake's snapshots after `after` brought; LakeError where one has expired."""
    if after >= until:
        return Changes(frozenset(), False)
    found = lake.read(
        f"SELECT completion_id AS id, NULL AS author "
        f"FROM lake.table_insertions('completions', {after + 1:d}, {until:d}) "
        f"UNION ALL SELECT target, author "
        f"FROM lake.table_changes('feedback', {after + 1:d}, {until:d}) WHERE target IS NOT NULL"
    )
    experts = "expert" in found["author"].to_pylist()
    return Changes(frozenset(found["id"].to_pylist()), experts)


def failed(lake: Lake, task: str, graders: Sequence[Base[Any]]) -> frozenset[str]:
    """Completions that some of `graders` failed at: time alone makes them due."""
    sql, values = _numbered(_FAILED.format(graders=_GRADERS), _params(task, graders, None))
    return frozenset(lake.read(sql, values).column(0).to_pylist())


def pending(
    lake: Lake,
    task: str,
    graders: Sequence[Base[Any]],
    known: Mapping[str, Reference],
    *,
    since: datetime | None,
    limit: int,
    among: frozenset[str] | None = None,
    paid_since: datetime | None = None,
) -> list[Pending]:
    """The oldest `limit` completions that are due for some of `graders`, of all or `among` some.

    `paid_since`: judges have money again for what was refused before then; None: they have none.
    """
    if among is not None and not among:
        return []
    params = {
        **_params(task, graders, since),
        "now": datetime.now(UTC),
        "prompts": list(known),
        "digests": [reference.digest for reference in known.values()],
        "limit": limit,
        "unpaid": SPENT,
        "paid_since": paid_since or EPOCH,
    }
    params |= _bounds(among)
    needs_feedback = any(each.needs_feedback for each in graders)
    said = f"(SELECT * FROM feedback WHERE true {_among('target', among)})"
    sql = _SQL.format(
        graders=_GRADERS,
        answered=_ANSWERED + _among("completion_id", among),
        feedback=_FEEDBACK.format(states=feedback_state(said)) if needs_feedback else _NO_FEEDBACK,
        among=_among("completion_id", among),
        among_c=_among("c.completion_id", among),
        max_failures=MAX_FAILURES,
        retry_seconds=RETRY_SECONDS,
    )
    return [readable(row, known) for row in lake.read(*_numbered(sql, params)).to_pylist()]


def seed(
    lake: Lake,
    task: str,
    graders: Sequence[Base[Any]],
    since: datetime | None,
    among: frozenset[str] | None = None,
) -> int:
    """Write an unscored row for every expected score that has none; how many."""
    params = {**_params(task, graders, since), "now": datetime.now(UTC), **_bounds(among)}
    sql, values = _numbered(_SEED.format(among=_among("completion_id", among)), params)
    rows = lake.commit(lambda transaction: transaction.query(sql, values))
    return int(next(iter(rows[0].values()))) if rows else 0


def waiting(
    lake: Lake, task: str, graders: Sequence[Base[Any]], among: frozenset[str] | None
) -> tuple[int, datetime | None]:
    """Answers, of all or `among` some, that some grader has not looked at, and when the oldest of
    them came."""
    params = {**_params(task, graders, None), **_bounds(among)}
    sql, values = _numbered(_WAITING.format(among=_among("completion_id", among)), params)
    row = lake.read(sql, values).to_pylist()[0]
    return row["answers"], row["oldest"]


def _among(column: str, among: frozenset[str] | None) -> str:
    return "" if among is None else _AMONG.format(id=column)


def _bounds(among: frozenset[str] | None) -> dict[str, Any]:
    return {"low": min(among), "high": max(among), "ids": sorted(among)} if among else {}


def _params(task: str, graders: Sequence[Base[Any]], since: datetime | None) -> dict[str, Any]:
    return {
        "task": task,
        "since": since or EPOCH,
        "names": [grader.name for grader in graders],
        "versions": [grader.version for grader in graders],
        "by_feedback": [grader.needs_feedback for grader in graders],
        "by_reference": [grader.needs_reference for grader in graders],
    }


def _numbered(sql: str, params: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """`$name` as `$1`, `$2`, with the values in that order: what the lake takes."""
    used = list(dict.fromkeys(_NAME.findall(sql)))
    return _NAME.sub(lambda found: f"${used.index(found[1]) + 1}", sql), [params[n] for n in used]


def readable(row: Mapping[str, Any], known: Mapping[str, Reference]) -> Pending:
    """One row as the graders see it; one that cannot be read stops nobody."""
    found = Pending(
        completion_id=row["completion_id"],
        evaluators=tuple(row["evaluators"]),
        sample=Sample(row["response_text"]),
        item={},
        feedback_digest=row["feedback_digest"] or "",
        prompt="",
        reference_digest="",
        request_id=row.get("request_id"),
    )
    try:
        messages, tools = asked(row)
        prompt = prompt_key(messages, tools)
        reference = known.get(prompt)
        return replace(
            found,
            sample=sample_of(row["answer"], row["response_text"], row["finish_reason"]),
            item=_item(row, messages, tools, reference),
            prompt=prompt,
            reference_digest=reference.digest if reference else "",
        )
    except Exception as error:
        return replace(found, fault=f"unreadable row: {type(error).__name__}: {error}"[:300])


def _item(
    row: Mapping[str, Any], messages: Any, tools: Any, reference: Reference | None
) -> dict[str, Any]:
    feedback = loads(row["feedback"] or "[]")
    return {
        "messages": messages,
        "tools": tools,
        "prompt": last_user_text(messages),
        "response": row["response_text"],
        "reference": reference.text if reference else None,
        "metadata": loads(row["metadata"] or "{}"),
        **said(feedback),
        "version": row["version"],
        "arm": row["arm"],
    }


def said(feedback: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What graders know of the feedback on one answer, oldest first. A user's correction is a
    suggestion: nothing to compare answers with, and in `feedback` with its author alone."""
    experts = [row for row in feedback if row["author"] == "expert"]
    return {
        "correction": _latest(experts, "correction", "value_text"),
        "thumbs": _latest(feedback, "binary", "value_bool"),
        "feedback": feedback,
    }


def _latest(feedback: Sequence[Mapping[str, Any]], kind: str, key: str) -> Any:
    values = [row[key] for row in feedback if row["kind"] == kind and row[key] is not None]
    return values[-1] if values else None

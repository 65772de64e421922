"""Renders the table specs of `columns.py`: DDL, Arrow schemas, views and `docs/lake.md`."""

from typing import TYPE_CHECKING, Any

from everlearn.lake.columns import TABLES, Kind, TableSpec

if TYPE_CHECKING:
    import pyarrow as pa

SQL_TYPES: dict[Kind, str] = {
    "text": "VARCHAR",
    "int": "BIGINT",
    "float": "DOUBLE",
    "bool": "BOOLEAN",
    "time": "TIMESTAMPTZ",
    "json": "VARCHAR",
    "bytes": "BLOB",
    "ints": "BIGINT[]",
    "floats": "DOUBLE[]",
}

# The rules of feedback, once:
# - Given at: when the sender says, but never later than it arrived (clocks run fast).
# - Rater: (author, author_id), without an id also the key that sent it.
# - Again: the same idempotency key of the same owner about the same target, by the same rater, with
#   the content of the piece before it is a duplicate; with other content it is a word of its own,
#   so that the change counts.
# - Of one rater, one name and one slot (value, correction, comment, preference) about one answer
#   the latest counts; a retraction takes back what the rater gave before it, or as late.
# - A key speaks of its own tasks only: what it says of another is kept and not allowed.
# - What was erased is no feedback any more.
# - A name that more than one completion bears joins the latest before it, and is `ambiguous`:
#   whatever learns or judges leaves it out (`targets.py` finds them).
# That `target` and `task` part every window lets a query of one of them skip the others' rows.
_STATE = """
WITH named AS (
    SELECT f.* REPLACE (coalesce(f.ambiguous, false) AS ambiguous),
        f.target IS NOT NULL AND f.key_tasks IS NOT NULL
            AND NOT coalesce(list_contains(string_split(f.key_tasks, ','), f.task), false)
            AS foreign_task,
        least(coalesce(f.occurred_at, f.received_at), f.received_at) AS given_at,
        coalesce(f.author_id, '/' || f.key_id) AS rater,
        {kind: f.kind, name: f.name, flag: f.value_bool, number: f.value_number,
            text: f.value_text, comment: f.comment, tags: f.tags} AS content,
        coalesce(f.target, f.completion_id, f.request_id, f.conversation_id) AS about,
        CASE WHEN f.kind IN ('correction', 'comment', 'preference') THEN f.kind ELSE 'value' END
            AS slot
    FROM /* these */ feedback f
    WHERE f.kind IS DISTINCT FROM 'erased'
), told AS (
    SELECT *, idempotency_key IS NOT NULL AND content IS NOT DISTINCT FROM lag(content) OVER (
            PARTITION BY target, task, idempotency_key, key_id, author, author_id, completion_id,
                request_id, conversation_id, other_completion_id
            ORDER BY received_at, feedback_id) AS repeated
    FROM named
), ordered AS (
    SELECT *,
        max(CASE WHEN kind = 'retraction' AND NOT repeated THEN given_at END)
            OVER (PARTITION BY target, task, about, name, author, rater) AS retracted_at,
        row_number() OVER (
            PARTITION BY target, task, about, other_completion_id, name, author, rater, slot,
                kind = 'retraction', repeated
            ORDER BY given_at DESC, received_at DESC, feedback_id DESC) AS recency
    FROM told
)
SELECT * EXCLUDE (foreign_task, rater, content, repeated, about, slot, retracted_at, recency),
    CASE
        WHEN repeated THEN 'duplicate'
        WHEN foreign_task THEN 'not_allowed'
        WHEN kind = 'retraction' THEN 'retraction'
        WHEN retracted_at >= given_at THEN 'retracted'
        WHEN recency > 1 THEN 'superseded'
        WHEN target IS NULL THEN 'orphan'
        ELSE 'joined'
    END AS state
FROM ordered"""


def feedback_state(these: str = "") -> str:
    """SQL: every feedback with its `state`; of some targets alone with `these`, a query of
    `feedback` in brackets that leaves out none of a target's."""
    return _STATE.replace("/* these */ feedback", these) if these else _STATE


FEEDBACK_JOINED = """
SELECT s.* EXCLUDE (completion_id, target, state), s.target AS completion_id,
    c.version, c.arm, c.unit
FROM feedback_state s JOIN completions c ON c.completion_id = s.target
WHERE s.state = 'joined'"""

SCORES_CURRENT = """
SELECT * EXCLUDE (recency) FROM (
    SELECT *, row_number() OVER (
        PARTITION BY completion_id, evaluator, evaluator_version
        ORDER BY created_at DESC, value IS NULL) AS recency
    FROM scores)
WHERE recency = 1"""

VIEWS = {
    "feedback_state": (
        "Every feedback with its completion (`target`), when it was given (`given_at`, never later "
        "than it arrived) and what became of it (`state`): joined, orphan, duplicate, retracted, "
        "superseded, retraction or not_allowed (its key may not speak of that task).",
        feedback_state(),
    ),
    "feedback_joined": (
        "The feedback that counts, joined to its completion: the columns of `feedback` with our "
        "`completion_id`, and `given_at`, `task`, `version`, `arm`, `unit`, `ambiguous` (kept, not "
        "learned from).",
        FEEDBACK_JOINED,
    ),
    "scores_current": (
        "The latest score of each evaluator version per completion: the columns of `scores`.",
        SCORES_CURRENT,
    ),
}


def ddl(table: TableSpec) -> str:
    """CREATE TABLE of one spec."""
    columns = ", ".join(f'"{column.name}" {SQL_TYPES[column.kind]}' for column in table.columns)
    return f"CREATE TABLE IF NOT EXISTS {table.name} ({columns})"


def arrow_schema(table: TableSpec) -> "pa.Schema":
    """Arrow schema of one spec; times are microseconds UTC."""
    import pyarrow as pa

    types: dict[Kind, Any] = {
        "text": pa.string(),
        "int": pa.int64(),
        "float": pa.float64(),
        "bool": pa.bool_(),
        "time": pa.timestamp("us", tz="UTC"),
        "json": pa.string(),
        "bytes": pa.binary(),
        "ints": pa.list_(pa.int64()),
        "floats": pa.list_(pa.float64()),
    }
    return pa.schema([(column.name, types[column.kind]) for column in table.columns])


def docs() -> str:
    """The page `docs/lake.md`."""
    parts = [
        "# The lake: tables people query",
        "Rendered from `everlearn/lake/columns.py`; `everlearn sql QUERY` reads them. "
        "Times are UTC; "
        "`json` columns hold JSON text (`messages->0->>'content'` works on them).",
    ]
    for table in TABLES:
        rows = [f"| `{c.name}` | {SQL_TYPES[c.kind]} | {c.doc} |" for c in table.columns]
        parts += [f"## {table.name}", table.doc]
        parts.append("\n".join(["| column | type | |", "|---|---|---|", *rows]))
    for name, (doc, _) in VIEWS.items():
        parts += [f"## {name} (view)", doc]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    print(docs(), end="")

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

TARGETS = """
    SELECT f.feedback_id, c.completion_id, c.way, c.received_at > f.received_at AS later,
        abs(epoch(c.received_at) - epoch(f.received_at)) AS apart
    FROM (
        SELECT feedback_id, received_at, unnest([0, 1, 2, 3]) AS way,
            unnest([completion_id, completion_id, request_id, conversation_id]) AS name
        FROM feedback
    ) f JOIN (
        SELECT completion_id, received_at, status, unnest([0, 1, 2, 3]) AS way,
            unnest([completion_id, upstream_id, request_id, conversation_id]) AS name
        FROM completions
    ) c ON c.name = f.name AND c.way = f.way
    WHERE c.way = 0 OR c.status NOT IN ('shadow', 'rejected')"""

FEEDBACK_STATE = f"""
WITH targets AS ({TARGETS}
), nearest AS (
    SELECT feedback_id, first(completion_id ORDER BY way, later, apart) AS target,
        count(*) FILTER (way IN (1, 2)) > 1 AND min(way) IN (1, 2) AS ambiguous
    FROM targets GROUP BY feedback_id
), named AS (
    SELECT f.*, n.target, coalesce(n.ambiguous, false) AS ambiguous,
        coalesce(f.occurred_at, f.received_at) AS given_at,
        row_number() OVER (
            PARTITION BY coalesce(f.idempotency_key, f.feedback_id), f.idempotency_key IS NULL,
                f.author, f.author_id
            ORDER BY f.received_at, f.feedback_id) AS repetition,
        coalesce(n.target, f.completion_id, f.request_id, f.conversation_id) AS about,
        CASE WHEN f.kind IN ('correction', 'comment', 'preference') THEN f.kind ELSE 'value' END
            AS slot
    FROM feedback f LEFT JOIN nearest n USING (feedback_id)
), ordered AS (
    SELECT *,
        max(CASE WHEN kind = 'retraction' AND repetition = 1 THEN given_at END)
            OVER (PARTITION BY about, name, author, author_id) AS retracted_at,
        row_number() OVER (
            PARTITION BY about, other_completion_id, name, author, author_id, slot,
                kind = 'retraction', repetition > 1
            ORDER BY given_at DESC, received_at DESC, feedback_id DESC) AS recency
    FROM named
)
SELECT * EXCLUDE (given_at, repetition, about, slot, retracted_at, recency),
    CASE
        WHEN repetition > 1 THEN 'duplicate'
        WHEN kind = 'retraction' THEN 'retraction'
        WHEN retracted_at >= given_at THEN 'retracted'
        WHEN recency > 1 THEN 'superseded'
        WHEN target IS NULL THEN 'orphan'
        ELSE 'joined'
    END AS state
FROM ordered"""

FEEDBACK_JOINED = """
SELECT s.* EXCLUDE (completion_id, target, state), s.target AS completion_id,
    c.task, c.version, c.arm, c.unit
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
        "Every feedback with its completion (`target`) and what became of it (`state`): joined, "
        "orphan, duplicate, retracted, superseded or retraction.",
        FEEDBACK_STATE,
    ),
    "feedback_joined": (
        "The feedback that counts, joined to its completion: the columns of `feedback` with our "
        "`completion_id`, and `task`, `version`, `arm`, `unit`, `ambiguous`.",
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

"""`GET /compare`: two versions on the same prompts, what differs first.

Looks at so many of the newest answers of each, so that it costs the same in any lake.
"""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from console.pages.requests import messages_of
from console.render import page
from console.source import Asks, Read, Source
from everlearn.errors import NotFound
from everlearn.prompts import last_user_text

router = APIRouter()

LOOKED = 3000
SHOWN = 40
_VERSIONS = """
    SELECT version, max(received_at) AS latest FROM (
        SELECT version, received_at FROM completions WHERE task = ? AND version IS NOT NULL
        ORDER BY received_at DESC LIMIT 50000)
    GROUP BY version ORDER BY latest DESC LIMIT 30
"""
_NEWEST = f"""
    SELECT completion_id, received_at FROM completions
    WHERE task = ? AND version = ? AND status = 'ok' ORDER BY received_at DESC LIMIT {LOOKED}
"""
_PAIRS = f"""
    WITH looked AS (
        SELECT completion_id, version, messages, response_text, received_at FROM completions
        WHERE received_at BETWEEN $1 AND $2 AND task = $3 AND version IN ($4, $5)
            AND completion_id IN (SELECT unnest($6::VARCHAR[]))
    ), once AS (
        SELECT * FROM looked QUALIFY row_number() OVER (
            PARTITION BY version, messages ORDER BY received_at DESC, completion_id) = 1
    ), graded AS (
        SELECT completion_id, arg_max(value, created_at) AS value FROM scores
        WHERE evaluator = $7 AND created_at >= $1
            AND completion_id IN (SELECT completion_id FROM once) GROUP BY completion_id
    )
    SELECT a.messages, a.completion_id AS a_id, b.completion_id AS b_id,
        left(a.response_text, 2000) AS a_text, left(b.response_text, 2000) AS b_text,
        ga.value AS a_score, gb.value AS b_score,
        a.response_text IS DISTINCT FROM b.response_text AS differs,
        count(*) OVER () AS pairs, count(*) FILTER (differs) OVER () AS different
    FROM once a JOIN once b ON a.messages = b.messages AND a.version = $4 AND b.version = $5
    LEFT JOIN graded ga ON ga.completion_id = a.completion_id
    LEFT JOIN graded gb ON gb.completion_id = b.completion_id
    ORDER BY coalesce(abs(ga.value - gb.value), 0) DESC, differs DESC, a.received_at DESC
    LIMIT {SHOWN}
"""


@router.get("/compare", response_class=HTMLResponse)
def compare(
    request: Request, source: Read, asked: Asks, a: str = "", b: str = "", grader: str = ""
) -> HTMLResponse:
    """The page; without versions the newest two."""
    task = asked.tasks.get(asked.one)
    if task is None:
        raise NotFound("no task is declared, so there is nothing to compare")
    known = [row["version"] for row in source.rows(_VERSIONS, [task.task])]
    for version in (a, b):
        if version and version not in known:
            raise NotFound(f"no version {version!r} answered lately; these did: {', '.join(known)}")
    a, b = a or next(iter(known[1:]), ""), b or next(iter(known), "")
    graders = [each.name for each in task.graders]
    grader = grader if grader in graders else task.release.primary
    rows = _pairs(source, task.task, (a, b), grader) if a and b and a != b else []
    return page(
        request, "compare", asked=asked, rows=rows, a=a, b=b, known=known, grader=grader,
        graders=graders, looked=LOOKED,
    )  # fmt: skip


def _pairs(
    source: Source, task: str, versions: tuple[str, str], grader: str
) -> list[dict[str, Any]]:
    newest = [row for each in versions for row in source.rows(_NEWEST, [task, each])]
    if not newest:
        return []
    times = [row["received_at"] for row in newest]
    ids = [row["completion_id"] for row in newest]
    rows = source.rows(_PAIRS, [min(times), max(times), task, *versions, ids, grader])
    return [{**row, "asked": last_user_text(messages_of(row["messages"]))} for row in rows]

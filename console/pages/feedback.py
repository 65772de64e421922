"""`GET /feedback`: what people said, newest first, and what became of it."""

from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from console.render import page
from console.source import Asks, Read, marks
from everlearn.errors import InputError

router = APIRouter()

PAGE = 60
KINDS = (
    "binary", "scalar", "label", "correction", "comment", "preference", "implicit", "retraction",
)  # fmt: skip
_STEPS = (timedelta(days=1), timedelta(days=30), timedelta(days=36_500))
_STREAM = f"""
    SELECT feedback_id, target, task, kind, name, value_bool, value_number, value_text, comment,
        author, author_id, received_at, ambiguous,
        coalesce(completion_id, request_id, conversation_id) AS about
    FROM feedback WHERE received_at < ? AND received_at >= ? AND {{where}}
    ORDER BY received_at DESC, feedback_id DESC LIMIT {PAGE + 1}
"""
_COMMENTS = """
    SELECT feedback_id, arg_max({{state: state, sort: sort, why: coalesce(error, why)}}, created_at)
        AS told
    FROM comments WHERE feedback_id IN ({ids}) GROUP BY feedback_id
"""


@router.get("/feedback", response_class=HTMLResponse)
def feedback(
    request: Request, source: Read, asked: Asks, kind: str = "", author: str = "", only: str = "",
    before: str = "",
) -> HTMLResponse:  # fmt: skip
    """The page."""
    where, params = asked.where()
    for column, value in (("kind", kind), ("author", author)):
        if value:
            where += f" AND {column} = ?"
            params.append(value)
    if only == "waiting":
        where += " AND target IS NULL"
    elif only == "comments":
        where += " AND (comment IS NOT NULL OR kind = 'comment')"
    until, rows = _moment(before), list[dict[str, Any]]()
    for step in _STEPS:
        rows = source.rows(_STREAM.format(where=where), [until, until - step, *params])
        if len(rows) > PAGE:
            break
    ids = [row["feedback_id"] for row in rows]
    told = source.rows(_COMMENTS.format(ids=marks(ids)), ids) if ids else []
    older = rows[PAGE - 1]["received_at"].isoformat() if len(rows) > PAGE else None
    return page(
        request, "feedback", asked=asked, rows=rows[:PAGE], kinds=KINDS, kind=kind, author=author,
        only=only, older=older, comments={row["feedback_id"]: row["told"] for row in told},
        states=source.counts().states,
    )  # fmt: skip


def _moment(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text) if text else datetime.now(UTC) + timedelta(hours=1)
    except ValueError as error:
        raise InputError(f"before = {text!r}: take the address of a link") from error
    return at if at.tzinfo else at.replace(tzinfo=UTC)

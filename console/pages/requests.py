"""`GET /requests`: what was asked and answered, newest first; `GET /requests/{id}`: one of them.

- A page looks at so many of the newest requests and says how far back that was; the next page goes
  on there. So a search costs the same in any lake.
- What stands in many columns is read of the rows that are shown alone.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel

from console.render import page
from console.source import Asked, Asks, Read, Source, marks, sees
from evaluators.shown import told
from everlearn.errors import InputError, NotFound
from everlearn.prompts import conversation, last_user_text
from everlearn.tolerant import UNREADABLE, loads

router = APIRouter()

PAGE = 50
SCANNED = 20_000
"""Rows that one page of a search looks at."""
_STEPS = (timedelta(hours=6), timedelta(days=7), timedelta(days=90))
_BEGIN = datetime(1970, 1, 1, tzinfo=UTC)
STATUSES = (
    "ok", "incomplete", "filtered", "refused", "upstream_error", "client_abort", "timeout",
    "rejected", "shadow", "passed", "imported", "erased",
)  # fmt: skip
ARMS = ("champion", "challenger", "holdback")
VERDICTS = {
    "good": "value >= 0.5",
    "bad": "value < 0.5",
    "unscored": "value IS NULL",
    "any": "true",
}

_REACH = """
    SELECT count(*) AS n, min(received_at) AS since FROM (
        SELECT received_at FROM completions WHERE received_at >= ? AND received_at <= ?
        ORDER BY received_at DESC LIMIT ?)
"""
_FOUND = """
    SELECT completion_id, received_at FROM completions
    WHERE received_at >= ? AND received_at <= ? AND {where}
    ORDER BY received_at DESC, completion_id DESC LIMIT ?
"""
_SHOWN = """
    SELECT completion_id, received_at, task, version, arm, probability, status, unit, latency_ms,
        stream, messages, left(response_text, 400) AS response_text
    FROM completions WHERE received_at >= ? AND received_at <= ? AND completion_id IN ({ids})
    ORDER BY received_at DESC, completion_id DESC
"""
_ONE = "SELECT * EXCLUDE (raw_request, raw_response) FROM completions WHERE completion_id = ?"
_SAID = "SELECT * FROM feedback_state WHERE target = ? ORDER BY received_at"
_SCORES = """
    SELECT evaluator, evaluator_version, value, label, coalesce(error, reason) AS reason, cost,
        created_at
    FROM scores_current WHERE completion_id = ? ORDER BY evaluator, created_at
"""


class Wanted(BaseModel):
    """The search, as the address says it."""

    text: str = ""
    unit: str = ""
    arm: str = ""
    version: str = ""
    status: str = ""
    grader: str = ""
    verdict: str = "any"
    before: str = ""
    """`TIME|ID`: the row after which the page goes on; `TIME|`: everything before that."""

    @property
    def selective(self) -> bool:
        """Whether a row may be left out."""
        return any((self.text, self.unit, self.arm, self.version, self.status, self.grader))

    def cursor(self) -> tuple[datetime, str]:
        """Up to when, and of that moment up to which id; InputError on what no page gave out."""
        at, _, last = self.before.partition("|")
        try:
            time = datetime.fromisoformat(at) if at else datetime.now(UTC) + timedelta(days=1)
        except ValueError as error:
            raise InputError(f"before = {self.before!r}: take the address of a link") from error
        time = time if time.tzinfo else time.replace(tzinfo=UTC)
        # without an id the moment itself has been looked at
        return (time if last else time - timedelta(microseconds=1)), last


class Slice(NamedTuple):
    """What one page looks at."""

    since: datetime
    until: datetime
    complete: bool
    """Nothing older is there."""


@router.get("/requests", response_class=HTMLResponse)
def requests(
    request: Request, source: Read, asked: Asks, wanted: Annotated[Wanted, Query()]
) -> HTMLResponse:
    """The list."""
    until, last = wanted.cursor()
    looked = _slice(source, until, SCANNED if wanted.selective else 4 * PAGE)
    rows = _rows(source, asked, wanted, looked, last)
    more = None
    if len(rows) > PAGE:
        rows = rows[:PAGE]
        more = f"{rows[-1]['received_at'].isoformat()}|{rows[-1]['completion_id']}"
    elif not looked.complete:
        more = f"{looked.since.isoformat()}|"
    older = {**wanted.model_dump(exclude_defaults=True), "task": asked.task, "before": more}
    graders = sorted({each.name for task in asked.tasks.values() for each in task.graders})
    return page(
        request, "requests", rows=rows, asked=asked, wanted=wanted, looked=looked, graders=graders,
        older=f"/requests?{urlencode(older)}" if more else None, arms=ARMS, statuses=STATUSES,
        verdicts=VERDICTS,
    )  # fmt: skip


@router.get("/requests/{completion_id}", response_class=HTMLResponse)
def one(request: Request, source: Read, asked: Asks, completion_id: str) -> HTMLResponse:
    """One request with all that is known of it."""
    found = source.rows(_ONE, [completion_id])
    if not found:
        raise NotFound(f"no request {completion_id}: it may be on its way to the lake for a second")
    row = found[0]
    sees(asked.person, row["task"], "request")
    said = source.rows(_SAID, [completion_id])
    scores = source.rows(_SCORES, [completion_id])
    return page(request, "request", row=row, told=told(row), said=said, scores=scores)


def _slice(source: Source, until: datetime, rows: int) -> Slice:
    """So far back that about so many rows are looked at: step by step, as most lakes hold much
    more than a page needs."""
    for step in (*_STEPS, until - _BEGIN):
        found = source.row(_REACH, [until - step, until, rows])
        if found["n"] >= rows:
            return Slice(found["since"], until, False)
    return Slice(_BEGIN, until, True)


def _rows(
    source: Source, asked: Asked, wanted: Wanted, looked: Slice, last: str
) -> list[dict[str, Any]]:
    where, params = asked.where()
    conditions = [where]
    for name in ("unit", "arm", "version", "status"):
        if value := getattr(wanted, name):
            conditions.append(f"{name} = ?")
            params.append(value)
    if wanted.text:
        conditions.append("(contains(lower(response_text), ?) OR contains(lower(messages), ?))")
        text = wanted.text.lower()
        params += [text, json.dumps(text, ensure_ascii=False)[1:-1]]
    if wanted.grader:
        verdict = VERDICTS.get(wanted.verdict, "true")
        # A score is never older than its answer.
        conditions.append(
            "completion_id IN (SELECT completion_id FROM scores "
            f"WHERE evaluator = ? AND {verdict} AND created_at >= ?)"
        )
        params += [wanted.grader, looked.since]
    if last:
        conditions.append("(received_at, completion_id) < (?, ?)")
        params += [looked.until, last]
    sql = _FOUND.format(where=" AND ".join(conditions))
    found = source.rows(sql, [looked.since, looked.until, *params, PAGE + 1])
    if not found:
        return []
    ids = [row["completion_id"] for row in found]
    bounds = [found[-1]["received_at"], found[0]["received_at"]]
    rows = source.rows(_SHOWN.format(ids=marks(ids)), [*bounds, *ids])
    return [{**row, "asked": last_user_text(messages_of(row["messages"]))[:400]} for row in rows]


def messages_of(text: str | None) -> list[Mapping[str, Any]]:
    """The messages for people to read, whatever stands there."""
    try:
        return conversation(loads(text or "[]"))
    except UNREADABLE:
        return conversation(text)

"""`GET /`: every task with its versions, their traffic and their scores."""

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from collector.ledger import ledger, totals
from console.source import TEMPLATES, Read
from gateway.routes import read_routes

router = APIRouter()

_TRAFFIC = """
    SELECT version, arm, count(*) AS answers, count(*) FILTER (status <> 'ok') AS failed,
        avg(latency_ms) AS latency_ms, max(received_at) AS latest
    FROM completions WHERE task = ? GROUP BY version, arm ORDER BY latest DESC
"""
_SCORES = """
    SELECT s.evaluator, c.version, count(s.value) AS scored, count(*) - count(s.value) AS unscored,
        avg(s.value) AS mean
    FROM scores_current s JOIN completions c USING (completion_id)
    WHERE s.task = ? GROUP BY s.evaluator, c.version ORDER BY s.evaluator, c.version
"""


@router.get("/", response_class=HTMLResponse)
def overview(request: Request, source: Read) -> HTMLResponse:
    """The page."""
    routes = read_routes(source.service.routes_path).tasks
    tasks = [
        {
            "name": name,
            "route": routes.get(name),
            "traffic": source.rows(_TRAFFIC, [name]),
            "scores": source.rows(_SCORES, [name]),
        }
        for name in source.tasks()
    ]
    capture = totals(ledger(source.service, source.lake))
    content = {"tasks": tasks, "capture": capture}
    return TEMPLATES.TemplateResponse(request, "overview.html", content)

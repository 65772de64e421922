"""`GET|POST /labels/{task}`: the answer most worth a label, and the expert's verdict on it."""

import os
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from console.source import TEMPLATES, Read
from evaluators import labels
from everlearn.errors import EverlearnError

router = APIRouter()

_VERDICTS = {"up": True, "down": False}
SKIPPED = 50
"""So many answers may be passed over before the queue starts again."""


@router.get("/labels/{task}", response_class=HTMLResponse)
def next_label(request: Request, source: Read, task: str, skip: int = 0) -> HTMLResponse:
    """The page."""
    source.task(task)
    rows = labels.queue(source.lake, task, SKIPPED)
    index = max(0, skip) % len(rows) if rows else 0
    content = {"task": task, "row": rows[index] if rows else None, "skip": index, "error": None}
    return TEMPLATES.TemplateResponse(request, "labels.html", content)


@router.post("/labels/{task}")
async def put_label(request: Request, source: Read, task: str) -> Response:
    """Send the form as an expert's feedback and show the next one; 502 with the gateway's reason.

    The answer just judged leaves the queue when the collector has brought the label to the lake.
    """
    form = dict(parse_qsl((await request.body()).decode(errors="replace")))
    source.task(task)
    events = labels.label(
        form.get("completion_id", ""),
        good=_VERDICTS.get(form.get("verdict", "")),
        correction=form.get("correction"),
        comment=form.get("comment"),
        author_id=form.get("author_id"),
    )
    key = os.environ.get("EVERLEARN_API_KEY")
    try:
        await run_in_threadpool(labels.send, source.gateway, events, key)
    except EverlearnError as error:
        content = {"task": task, "row": None, "skip": 0, "error": str(error)}
        return TEMPLATES.TemplateResponse(request, "labels.html", content, status_code=502)
    return RedirectResponse(f"/labels/{task}?skip={_number(form.get('skip', '')) + 1}", 303)


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 6 else 0

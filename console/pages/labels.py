"""`GET|POST /labels/{task}`: the answer most worth a label, and the expert's verdict on it.

- An answer just judged is not shown again, although its label is on the way to the lake.
- A form that cannot be taken comes back as it was filled in.
- Who labels is remembered by the browser.
"""

import os
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from console.source import TEMPLATES, Read, Source
from evaluators import labels
from everlearn.errors import EverlearnError, InputError

router = APIRouter()

_VERDICTS = {"up": True, "down": False}
QUEUE = 50
"""So many answers may be passed over before the queue starts again."""
NAME = "everlearn_labeller"
NAME_SECONDS = 365 * 86_400
MAX_NAME = 256


@router.get("/labels/{task}", response_class=HTMLResponse)
def next_label(request: Request, source: Read, task: str, skip: int = 0) -> HTMLResponse:
    """The page."""
    source.task(task)
    rows = _waiting(source, task)
    index = max(0, skip) % len(rows) if rows else 0
    form = {"author_id": unquote(request.cookies.get(NAME, ""))}
    return _page(request, task, rows[index] if rows else None, skip=index, form=form)


@router.post("/labels/{task}")
async def put_label(request: Request, source: Read, task: str) -> Response:
    """Send the form as an expert's feedback and show the next one.

    422 where the form contradicts itself, 502 with the gateway's reason, each with the form.
    """
    form = dict(parse_qsl((await request.body()).decode(errors="replace")))
    source.task(task)
    completion_id, skip = form.get("completion_id", ""), _number(form.get("skip", ""))
    author = form.get("author_id", "").strip()[:MAX_NAME]
    try:
        events = labels.label(
            completion_id,
            good=_VERDICTS.get(form.get("verdict", "")),
            correction=form.get("correction"),
            comment=form.get("comment"),
            author_id=author,
        )
        key = os.environ.get("EVERLEARN_API_KEY")
        await run_in_threadpool(labels.send, source.gateway, events, key)
    except EverlearnError as error:
        rows = await run_in_threadpool(_waiting, source, task)
        row = next((each for each in rows if each["completion_id"] == completion_id), None)
        page = _page(request, task, row, skip=skip, form=form, error=str(error))
        page.status_code = 422 if isinstance(error, InputError) else 502
        return page
    source.judged.append(completion_id)
    answer = RedirectResponse(f"/labels/{task}?skip={skip}", 303)
    if author:
        answer.set_cookie(
            NAME, quote(author), max_age=NAME_SECONDS, httponly=True, samesite="strict"
        )
    return answer


def _waiting(source: Source, task: str) -> list[dict[str, Any]]:
    """The queue without what was judged here a moment ago."""
    judged = set(source.judged)
    rows = labels.queue(source.lake, task, QUEUE + len(judged))
    return [row for row in rows if row["completion_id"] not in judged][:QUEUE]


def _page(
    request: Request, task: str, row: Any, *, skip: int, form: Any, error: str | None = None
) -> HTMLResponse:
    content = {"task": task, "row": row, "skip": skip, "form": form, "error": error}
    return TEMPLATES.TemplateResponse(request, "labels.html", content)


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 6 else 0

"""`GET|POST /labels/{task}`: one answer after another, and an expert's verdict on each.

- Whoever has an answer before him has it alone; what he does not judge is somebody else's later.
- A form that cannot be taken comes back as it was filled in.
- Works by keyboard (`static/labels.js`), and without a script as plain forms.
- Who labels is remembered by the browser.
"""

import os
from typing import Any
from urllib.parse import parse_qsl, quote

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from console.labeller import Form, Labeller, labeller, remembered, status_of
from console.source import TEMPLATES, Read, Source
from evaluators import labels
from evaluators.experts import CRITERION
from evaluators.queue import Queue, ask
from evaluators.shown import Shown, shown
from everlearn.errors import EverlearnError, InputError
from everlearn.task import Task

router = APIRouter()


@router.get("/labels/{task}", response_class=HTMLResponse)
def next_label(request: Request, source: Read, task: str) -> HTMLResponse:
    """The page."""
    who, declared = labeller(request), source.task(task)
    queue = source.queue(declared)
    found = ask(queue, source.lake, task, who.session)
    return remembered(_page(request, queue, who, declared, found), who)


@router.post("/labels/{task}")
async def put_label(request: Request, source: Read, task: str) -> Response:
    """Take a verdict, a skip or an undo, and show the next answer.

    409 where the answer is somebody else's by now, 422 where the form contradicts itself, 502 with
    the gateway's reason, each with the form.
    """
    form = dict(parse_qsl((await request.body()).decode(errors="replace")))
    who = labeller(request, form)
    return remembered(await run_in_threadpool(_put, request, source, task, who, form), who)


def _put(request: Request, source: Source, task: str, who: Labeller, form: Form) -> Response:
    declared = source.task(task)
    queue = source.queue(declared)
    try:
        _act(source, declared, who, form)
    except EverlearnError as error:
        found = shown(source.lake, task, form.get("completion_id", ""))
        page = _page(request, queue, who, declared, found, form=form, error=str(error))
        page.status_code = status_of(error)
        return page
    return RedirectResponse(f"/labels/{quote(task)}", 303)


def _act(source: Source, task: Task, who: Labeller, form: Form) -> None:
    """The label goes to the gateway first: what the queue takes as judged was taken for good."""
    queue = source.queue(task)
    completion_id, action = form.get("completion_id", ""), form.get("verdict", "")
    comment, key = form.get("comment", ""), os.environ.get("EVERLEARN_API_KEY")
    if action == "undo":
        last = queue.last(who.session)
        if last is None:
            raise InputError("there is nothing of yours to undo")
        if last.state == "labelled":
            names = labels.names_of(task, last)
            events = labels.retraction(last.completion_id, author_id=who.name, names=names)
            labels.send(source.gateway, events, key)
        queue.undo(last.completion_id, who.session)
        return
    item = queue.hold(completion_id, who.session)
    if action == "skip":
        queue.skip(completion_id, who.session, comment)
        return
    events = labels.label(
        completion_id,
        verdict=labels.read_verdict(action),
        criteria=labels.read_criteria(
            task,
            {
                name.removeprefix(CRITERION): value
                for name, value in form.items()
                if name.startswith(CRITERION)
            },
        ),
        correction=form.get("correction"),
        comment=comment,
        author_id=who.name,
        tags=labels.tags_of(item),
    )
    labels.send(source.gateway, events, key)
    queue.label(completion_id, who.session, labels.verdict_of(events))


def _page(
    request: Request,
    queue: Queue,
    who: Labeller,
    task: Task,
    found: Shown | None,
    **more: Any,
) -> HTMLResponse:
    content = {
        "task": task.task, "rates": task.labels.scale == "rating", "criteria": task.criteria,
        "item": found, "who": who, "form": {}, "error": None,
        "progress": queue.progress(who.session), "last": queue.last(who.session), **more,
    }  # fmt: skip
    return TEMPLATES.TemplateResponse(request, "labels.html", content)

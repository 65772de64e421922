"""`GET|POST /labels/{task}/pairs`: two answers to one prompt, blind, and which is better.

- Neither ids nor versions are shown; which answer is A was drawn when the pair came in.
- A pair is before one labeller at a time. What the gateway does not take is not judged.
- Works by keyboard (`static/labels.js`), and without a script as plain forms.
"""

import os
from typing import Any
from urllib.parse import parse_qsl, quote

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from console.labeller import Form, Labeller, labeller, remembered, status_of
from console.source import TEMPLATES, Read, Source
from evaluators.labels import send
from evaluators.pairs import Pairs, Side, Verdict, ask, find, preference, retraction, sides
from everlearn.errors import EverlearnError, InputError
from everlearn.task import Task

router = APIRouter()

LOOK_SECONDS = 30.0
"""While no pair waits the lake is looked at so often, for all who watch."""
VERDICTS: dict[str, Verdict] = {"A": "A", "B": "B", "tie": "tie", "skip": "skip"}


@router.get("/labels/{task}/pairs", response_class=HTMLResponse)
def next_pair(request: Request, source: Read, task: str) -> HTMLResponse:
    """The page."""
    who, declared = labeller(request), source.task(task)
    pairs = Pairs(source.state, declared)
    found = ask(pairs, source.lake, task, who.session)
    if found is None:
        source.kept(
            ("pairs", task), lambda: pairs.offer(find(source.lake, declared)), seconds=LOOK_SECONDS
        )
        found = ask(pairs, source.lake, task, who.session)
    return remembered(_page(request, pairs, who, declared, found), who)


@router.post("/labels/{task}/pairs")
async def put_pair(request: Request, source: Read, task: str) -> Response:
    """Take a verdict or an undo, and show the next pair; refusals as on the label page."""
    form = dict(parse_qsl((await request.body()).decode(errors="replace")))
    who = labeller(request, form)
    return remembered(await run_in_threadpool(_put, request, source, task, who, form), who)


def _put(request: Request, source: Source, task: str, who: Labeller, form: Form) -> Response:
    declared = source.task(task)
    pairs = Pairs(source.state, declared)
    try:
        _act(source, pairs, who, form)
    except EverlearnError as error:
        pair = pairs.find(form.get("pair", ""))
        found = None if pair is None else sides(source.lake, task, pair)
        page = _page(request, pairs, who, declared, found, form=form, error=str(error))
        page.status_code = status_of(error)
        return page
    return RedirectResponse(f"/labels/{quote(task)}/pairs", 303)


def _act(source: Source, pairs: Pairs, who: Labeller, form: Form) -> None:
    """The preference goes to the gateway first: what counts as judged was taken for good."""
    action, key = form.get("verdict", ""), os.environ.get("EVERLEARN_API_KEY")
    if action == "undo":
        last = pairs.last(who.session)
        if last is None:
            raise InputError("there is nothing of yours to undo")
        events = retraction(*last, author_id=who.name)
        if events:
            send(source.gateway, events, key)
        pairs.undo(last[0].pair, who.session)
        return
    verdict = VERDICTS.get(action)
    if verdict is None:
        raise InputError(f"verdict {action!r}: A, B, tie or skip")
    pair = pairs.hold(form.get("pair", ""), who.session)
    events = preference(pair, verdict, author_id=who.name, comment=form.get("comment", ""))
    if events:
        send(source.gateway, events, key)
    pairs.judge(pair.pair, who.session, verdict)


def _page(
    request: Request, pairs: Pairs, who: Labeller, task: Task, found: Side | None, **more: Any
) -> HTMLResponse:
    last = pairs.last(who.session)
    content = {
        "task": task.task, "item": found, "who": who, "form": {}, "error": None,
        "progress": pairs.progress(who.session), "last": last and last[1], **more,
    }  # fmt: skip
    return TEMPLATES.TemplateResponse(request, "pairs.html", content)

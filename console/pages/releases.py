"""`GET /releases`, `GET /releases/{task}`: the ramp, its evidence, and what may be done about it.

`POST /releases/{task}/rollback|abort|start`: the verbs, by an operator who types the task's name,
while the traffic stands as his page said.
"""

import json
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from markupsafe import Markup

from console.charts import Line, lines
from console.render import page
from console.source import Asked, Asks, Read, Source
from console.steering import run
from everlearn.errors import EverlearnError, InputError, NotFound
from serving.release.challengers import every
from serving.release.outlook import REMAINING, remaining
from serving.release.pairs_ahead import PAIRED, InShadow
from serving.release.pairs_ahead import standing as standing_pairs
from serving.release.states import Release, Traffic, standing

router = APIRouter()

BUCKETS = 150
"""Points of a curve, however many units there were."""
RELEASES = 20
_TOLD = ("reason", "expect", "version", "to", "trust-raters", "anyway")
"""Of a form, what the audit keeps."""
_EVENTS = """
    SELECT release_id, version, event, phase, stage, percent, reason, evidence, created_at
    FROM releases WHERE task = ? AND release_id = ? ORDER BY created_at
"""
_ALL = f"""
    SELECT release_id, any_value(version) AS version, min(created_at) AS started,
        max(created_at) AS ended, arg_max(event, created_at) AS event,
        arg_max(reason, created_at) AS reason
    FROM releases WHERE task = ? GROUP BY release_id ORDER BY started DESC LIMIT {RELEASES}
"""
_UNITS = f"""
    WITH counted AS (
        SELECT position, treated, label_share, coalesce(value, 0.5) + CASE
            WHEN drawn AND label IS NOT NULL THEN (label - coalesce(value, 0.5)) / label_share
            ELSE 0 END AS value
        FROM release_units
        WHERE release_id = ? AND metric = ? AND (value IS NOT NULL OR label_share IS NOT NULL)
    ), width AS (SELECT greatest(1, (max(position) + 1) / {BUCKETS}.0) AS size FROM counted)
    SELECT floor(position / size) AS bucket, treated, count(*) AS n, sum(value) AS total,
        count(label_share) > 0 AS corrected
    FROM counted, width GROUP BY ALL ORDER BY bucket
"""
"""With people's labels of the random share each value is worth what they say, in the mean."""
_LAST_OF = "SELECT task FROM releases GROUP BY task ORDER BY max(created_at) DESC LIMIT 1"


@router.get("/releases")
def releases(source: Read, asked: Asks) -> Response:
    """The task that the address names, else the one that had a release last."""
    if not asked.task:
        found = [row["task"] for row in source.rows(_LAST_OF)]
        name = next((name for name in found if name in asked.tasks), asked.one)
    else:
        name = asked.task
    if not name:
        raise NotFound("no task is declared, so nothing was released")
    return RedirectResponse(f"/releases/{name}", 303)


@router.get("/releases/{task}", response_class=HTMLResponse)
def release(
    request: Request, source: Read, task: str, done: str = "", show: str = ""
) -> HTMLResponse:
    """The page of one task."""
    return _page(request, source, task, done=done, show=show)


@router.post("/releases/{task}/{verb}")
async def steer(request: Request, source: Read, task: str, verb: str) -> Response:
    """One of the verbs; the page again, with the reason, where it was refused."""
    form = dict(parse_qsl((await request.body()).decode(errors="replace")))
    return await run_in_threadpool(_steer, request, source, task, verb, form)


def _steer(
    request: Request, source: Source, task: str, verb: str, form: Mapping[str, str]
) -> Response:
    Asked(request, task)
    words = _words(task, verb, form)
    detail = {name: form[name] for name in _TOLD if form.get(name)}
    request.state.audit = {"task": task, "detail": detail}
    try:
        if form.get("confirm", "").strip() != task:
            raise InputError(f"type the task's name, {task}, to confirm")
        said = run(source.config, *words)
    except EverlearnError as error:
        request.state.audit |= {"outcome": f"refused: {error}"}
        status = 409 if isinstance(error, InputError) else 503
        return _page(request, source, task, status=status, error=str(error), form=form)
    request.state.audit |= {"outcome": said[:1000]}
    return RedirectResponse(f"/releases/{task}?done={verb}", 303)


def _words(task: str, verb: str, form: Mapping[str, str]) -> list[str]:
    """The command line; NotFound for what is none of the buttons."""
    reason = form.get("reason", "").strip()
    if verb == "start":
        why = ["--ungated", reason] if form.get("ungated") else []
        flags = [f"--{each}" for each in ("trust-raters", "anyway") if form.get(each)]
        return ["release", "start", task, form.get("version", "").strip(), *why, *flags]
    told = ["--reason", reason] if reason else []
    told += ["--expect", form.get("expect", "")]
    if verb == "rollback":
        return ["rollback", task, *told, *(["--to", form["to"]] if form.get("to") else [])]
    if verb == "abort":
        return ["release", "abort", task, *told]
    raise NotFound(f"{verb!r} is not a verb of a release: rollback, abort, start")


def _page(
    request: Request, source: Source, task: str, *, status: int = 200, error: str = "",
    done: str = "", show: str = "", form: Mapping[str, str] | None = None,
) -> HTMLResponse:  # fmt: skip
    asked = Asked(request, task)
    traffic = _traffic(source, task)
    history = source.rows(_ALL, [task])
    latest = traffic.release.release_id if traffic and traffic.release else ""
    if show and show not in {row["release_id"] for row in history}:
        raise NotFound(f"task {task} has no release {show} among its last {RELEASES}")
    chosen = show or latest or (history[0]["release_id"] if history else "")
    several = every(traffic) if traffic else ()
    shown = next((each for each in several if each.release_id == chosen), None)
    events = _events(source, traffic, task, chosen)
    units = source.rows(REMAINING, [chosen]) if shown else []
    rules = shown.parsed_rules if shown else asked.all[task].release
    return page(
        request, "release", status, asked=asked, task=task, traffic=traffic, history=history,
        chosen=chosen, shown=shown, events=events, rules=rules, error=error, form=form or {},
        standing=standing(traffic) if traffic else "base", ramp=_ramp(events),
        wagers=_wagers(events, rules.primary),
        done=done if done in ("rollback", "abort", "start") else "",
        left=remaining(shown, units, time.time()) if shown else None,
        paired=_paired(source, shown) if shown else None,
        means=_means(source, chosen, rules.primary), evidence=_latest(events),
    )  # fmt: skip


def _paired(source: Source, shown: Release) -> InShadow | None:
    return standing_pairs(shown, source.rows(PAIRED, [shown.release_id]), time.time())


def _traffic(source: Source, task: str) -> Traffic | None:
    found = source.state.get("traffic", task)
    return None if found is None else msgspec.convert(found[0], Traffic)


def _events(
    source: Source, traffic: Traffic | None, task: str, chosen: str
) -> list[dict[str, Any]]:
    """From the lake, and those that the document has still to tell it."""
    rows = source.rows(_EVENTS, [task, chosen]) if chosen else []
    events = [
        {
            **row,
            "at": row["created_at"].timestamp(),
            "evidence": _object(row["evidence"]),
        }
        for row in rows
    ]
    there = {(round(row["at"], 3), row["event"]) for row in events}
    waiting = traffic.events if traffic else ()
    return events + [
        msgspec.structs.asdict(event)
        for event in waiting
        if event.release_id == chosen and (round(event.at, 3), event.event) not in there
    ]


def _object(text: str | None) -> dict[str, Any]:
    """Evidence is an object by metric; anything else says nothing."""
    found = json.loads(text or "{}")
    return found if isinstance(found, dict) else {}


def _ramp(events: list[dict[str, Any]]) -> Markup:
    if len(events) < 2:
        return Markup("")
    start = events[0]["at"]
    points = [((row["at"] - start) / 60, float(row["percent"])) for row in events]
    return lines(
        [Line("share of traffic, %", points)], label="share of traffic by time", across="min",
        low=0.0, high=100.0, steps=True,
    )  # fmt: skip


def _wagers(events: list[dict[str, Any]], metric: str) -> Markup:
    """log e of the primary metric at each event that told its evidence."""
    told = [row for row in events if isinstance(row["evidence"].get(metric), Mapping)]
    if len(told) < 2:
        return Markup("")
    curves = [
        Line(
            f"log e of {name}",
            [
                ((row["at"] - events[0]["at"]) / 60, row["evidence"][metric][f"{name}_log_e"])
                for row in told
                if f"{name}_log_e" in row["evidence"][metric]
            ],
        )
        for name in ("promote", "harm", "futility")
    ]
    return lines(curves, label=f"log e-values of {metric} by time", across="min", low=0.0)


def _means(source: Source, chosen: str, metric: str) -> Markup:
    """The running mean of both arms by counted unit, of what people say where they correct it."""
    if not chosen:
        return Markup("")
    curves: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    sums, seen = {False: (0, 0.0), True: (0, 0.0)}, 0
    rows = source.rows(_UNITS, [chosen, metric])
    corrected = ", corrected by labels" if any(row["corrected"] for row in rows) else ""
    for row in rows:
        n, total = sums[row["treated"]]
        sums[row["treated"]] = n + row["n"], total + row["total"]
        seen += row["n"]
        n, total = sums[row["treated"]]
        curves[row["treated"]].append((float(seen), min(1.0, max(0.0, total / n))))
    return lines(
        [Line("champion", curves[False]), Line("candidate", curves[True])],
        label=f"running mean of {metric}{corrected} by counted unit", across="units",
        low=0.0, high=1.0,
    )  # fmt: skip


def _latest(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The newest evidence by metric: what is an object with units in it."""
    told = (row["evidence"] for row in reversed(events) if row["evidence"])
    found: Mapping[str, Any] = next(told, {})
    return {name: row for name, row in found.items() if isinstance(row, Mapping) and "units" in row}

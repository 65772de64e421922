"""`GET /`: the loop as a line of stations, and every task with who answers it."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from collector.tally import Tally
from console.render import number, page
from console.source import DAY, Asked, Asks, Read, Source
from gateway.routes import read_routes

router = APIRouter()

# What a client ended himself, what only passed by and what was asked beside is no failure.
_FAILED = "status IN ('upstream_error', 'timeout', 'rejected', 'filtered', 'incomplete')"
_TRAFFIC = f"""
    SELECT task, version, arm, count(*) AS answers, count(*) FILTER ({_FAILED}) AS failed,
        median(latency_ms) AS latency_ms, max(received_at) AS latest,
        max(received_at) FILTER ({_FAILED}) AS failed_at,
        arg_max(coalesce(error, status), received_at) FILTER ({_FAILED}) AS failure
    FROM completions WHERE received_at >= ? AND {{where}}
    GROUP BY ALL ORDER BY task, latest DESC
"""
# One statement: each costs 10 ms of planning, whatever it finds.
_STATIONS = """
    SELECT * FROM (
        SELECT count(*) AS pieces, max(received_at) AS said_at,
            count(*) FILTER (author = 'expert') AS labels
        FROM feedback WHERE received_at >= $1 AND {where}
    ), (
        SELECT max(created_at) FILTER (context IS NOT NULL) AS scored_at,
            max(created_at) FILTER (error IS NOT NULL) AS unscored_at,
            arg_max(evaluator || ': ' || error, created_at) FILTER (error IS NOT NULL) AS unscored
        FROM scores WHERE created_at >= $1 AND {where}
    ), (
        SELECT count(*) AS snapshots, max(created_at) AS frozen_at FROM snapshots WHERE {where}
    ), (
        SELECT max(received_at) AS dead_at, arg_max(reason, received_at) AS dead FROM dead_letters
    )
"""
_RELEASES = """
    SELECT task, count(DISTINCT release_id) AS n, max(created_at) AS latest,
        arg_max({{version: version, event: event, percent: percent, reason: reason}}, created_at)
            AS last,
        max(created_at) FILTER (event IN ('rolled_back', 'error')) AS failed_at,
        arg_max(reason, created_at) FILTER (event IN ('rolled_back', 'error')) AS failure
    FROM releases WHERE {where} GROUP BY task
"""
_DRIFT = """
    SELECT task, arg_max({{event: event, reason: reason, looked_at: created_at}}, look) AS last
    FROM drift_looks WHERE {where} GROUP BY task
"""


class Station(NamedTuple):
    """One stop of the loop."""

    name: str
    href: str
    figure: str
    note: str
    latest: datetime | None = None
    failed_at: datetime | None = None
    failure: str | None = None
    alarm: bool = False


@router.get("/", response_class=HTMLResponse)
def overview(request: Request, source: Read, asked: Asks) -> HTMLResponse:
    """The page."""
    where, params = asked.where()
    day = source.kept((*asked.tasks, where), lambda: _day(source, asked))
    traffic, recent, drifted = day.value
    found = source.rows(_RELEASES.format(where=where), params)
    releases = {row["task"]: row for row in found}
    ledger = source.capture()
    capture = ledger.value
    routes = read_routes(source.service.routes_path).tasks
    tasks = [
        {
            "name": name,
            "route": routes.get(name),
            "release": releases.get(name),
            "drift": drifted.get(name),
            "traffic": [row for row in traffic if row["task"] == name],
            "scores": _scores(source.counts(), name),
        }
        for name in asked.tasks
    ]
    stations = [
        _requests(asked, traffic), _lake(capture, recent), _feedback(source, asked, recent),
        _graders(source, asked, recent), _datasets(asked, recent), _released(asked, found),
    ]  # fmt: skip
    return page(
        request, "overview", tasks=tasks, stations=stations, capture=capture, asked=asked,
        counted_at=day.at, drawn_at=ledger.at, mlflow=source.service.mlflow.tracking_uri,
        airflow=_airflow(source),
    )  # fmt: skip


@router.get("/labels")
def labels(asked: Asks) -> RedirectResponse:
    """The queue of the first task."""
    return RedirectResponse(f"/labels/{asked.one}" if asked.one else "/", 303)


class Day(NamedTuple):
    """What is dear to count."""

    traffic: list[dict[str, Any]]
    """By version and arm."""
    recent: dict[str, Any]
    """Of the stations."""
    drift: dict[str, Any]
    """The last look by task."""


def _day(source: Source, asked: Asked) -> Day:
    """Answers by version, and the stations, of the last day: of an idle service, of the last day
    with traffic."""
    where, params = asked.where()
    latest = source.row(f"SELECT max(received_at) AS at FROM completions WHERE {where}", params)
    now = datetime.now(UTC)
    lately = min(now, latest["at"] or now) - DAY
    traffic = source.rows(_TRAFFIC.format(where=where), [lately, *params])
    looks = source.rows(_DRIFT.format(where=where), params)
    where, params = asked.where(place="$2")
    recent = source.row(_STATIONS.format(where=where), [lately, *params])
    return Day(traffic, recent, {row["task"]: row["last"] for row in looks})


def _requests(asked: Asked, traffic: list[dict[str, Any]]) -> Station:
    answers, failed = (sum(row[name] for row in traffic) for name in ("answers", "failed"))
    note = f"in the last day, {number(failed)} failed"
    return Station("Requests", asked.href("/requests"), number(answers), note, *_last(traffic))


def _lake(capture: dict[str, Any], recent: dict[str, Any]) -> Station:
    note = f"events, {number(capture['missing'])} missing, {number(capture['pending'])} on the way"
    alarm = bool(capture["missing"] or capture["dropped"])
    dead = recent["dead_at"], recent["dead"]
    return Station("Lake", "/system", number(capture["stored"]), note, None, *dead, alarm)


def _feedback(source: Source, asked: Asked, recent: dict[str, Any]) -> Station:
    orphans, _ = source.counts().states.get("orphan", (0, 0))
    note = f"in the last day, {number(recent['labels'])} by experts; {number(orphans)} orphans"
    href = asked.href("/feedback")
    return Station("Feedback", href, number(recent["pieces"]), note, recent["said_at"])


def _graders(source: Source, asked: Asked, recent: dict[str, Any]) -> Station:
    mine = [row for (task, _), row in source.counts().scores.items() if task in asked.tasks]
    scored, unscored = (sum(row[i] for row in mine) for i in (0, 1))
    failure = recent["unscored_at"], recent["unscored"]
    note = f"{number(unscored)} unscored"
    href = asked.href("/judges")
    return Station("Scores", href, number(scored), note, recent["scored_at"], *failure)


def _datasets(asked: Asked, recent: dict[str, Any]) -> Station:
    count = number(recent["snapshots"])
    return Station("Datasets", asked.href("/datasets"), count, "frozen", recent["frozen_at"])


def _released(asked: Asked, found: list[dict[str, Any]]) -> Station:
    running = sum(row["last"]["event"] in ("started", "step") for row in found)
    note = f"{running} running" if running else "none running"
    count = number(sum(row["n"] for row in found))
    return Station("Releases", asked.href("/releases"), count, note, *_last(found))


def _last(
    rows: Iterable[dict[str, Any]],
) -> tuple[datetime | None, datetime | None, str | None]:
    """When something was there last, and the last failure among these groups."""
    rows = list(rows)
    failures = [(row["failed_at"], row["failure"]) for row in rows if row["failed_at"]]
    latest = max((row["latest"] for row in rows), default=None)
    return latest, *max(failures, default=(None, None))


def _scores(counts: Tally, name: str) -> list[dict[str, Any]]:
    return [
        {
            "evaluator": evaluator, "scored": scored, "unscored": unscored,
            "mean": total / scored if scored else None,
        }
        for (task, evaluator), (scored, unscored, total) in sorted(
            counts.scores.items(), key=lambda item: (item[0][0] or "", item[0][1])
        )
        if task == name and (scored or unscored)
    ]  # fmt: skip


def _airflow(source: Source) -> str:
    return f"http://{source.service.airflow.host}:{source.service.airflow.port}"

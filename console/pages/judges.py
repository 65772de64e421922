"""`GET /judges`: how far each grader agrees with experts, whether its vote counts, and what has
drifted."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from markupsafe import Markup

from console.charts import Line, lines
from console.drift import drift
from console.render import page
from console.source import Asks, Read, Source
from evaluators.criteria import Agreed, by_criterion
from evaluators.fill import label_salt
from evaluators.graders import build_all
from evaluators.judges import Standing, standings
from evaluators.labels import agreement
from everlearn.errors import ConfigError
from everlearn.graders import FeedbackGrader, ScoreModel
from everlearn.task import Task

router = APIRouter()

LABELS = 2000
"""The newest labels that agreement is counted over."""
DAYS = 30
_LABELS = f"""
    SELECT target, arg_max(value_bool, received_at) AS good FROM (
        SELECT target, value_bool, received_at FROM feedback
        WHERE task = ? AND author = 'expert' AND kind = 'binary' AND target IS NOT NULL
            AND NOT coalesce(ambiguous, false)
        ORDER BY received_at DESC LIMIT {LABELS})
    GROUP BY target
"""
_VERDICTS = """
    SELECT evaluator, completion_id, arg_max_null(value, created_at) AS value FROM scores
    WHERE task = ? AND completion_id BETWEEN ? AND ?
        AND completion_id IN (SELECT unnest(?::VARCHAR[]))
    GROUP BY ALL
"""
# Asked alone it is read off the files' statistics.
_NEWEST = "SELECT max(created_at) AS at FROM scores"
# Microseconds, since `date_trunc` with a time zone costs four times the rest.
_DAILY = """
    SELECT evaluator, epoch_us(created_at) // 86_400_000_000 AS day, avg(value) AS mean
    FROM scores WHERE task = ? AND value IS NOT NULL AND created_at >= ?
    GROUP BY ALL ORDER BY day
"""


@router.get("/judges", response_class=HTMLResponse)
def judges(request: Request, source: Read, asked: Asks, look: int | None = None) -> HTMLResponse:
    """The page of one task."""
    task = asked.tasks.get(asked.one)
    means = source.kept(("means", asked.one), lambda: _means(source, asked.one))
    return page(
        request, "judges", asked=asked, rows=_rows(source, task) if task else [],
        criteria=source.kept(("criteria", task.task), lambda: _criteria(source, task)).value
        if task else [],
        drift=drift(source, asked.one, look), means=means.value, counted_at=means.at,
    )  # fmt: skip


def votes(source: Source, task: Task) -> dict[str, Standing]:
    """By grader: whether its word decides, and the comparison that says so."""
    return source.kept(("votes", task.task), lambda: _votes(source, task)).value


def _votes(source: Source, task: Task) -> dict[str, Standing]:
    try:
        return {
            each.grader: each for each in standings(source.lake, task, label_salt(source.service))
        }
    except ConfigError:
        return {}  # a grader that cannot be built has no say


def _criteria(source: Source, task: Task) -> list[Agreed]:
    """Of rubric judges: agreement with experts on each criterion."""
    try:
        return by_criterion(source.lake, task, build_all(task), label_salt(source.service))
    except ConfigError:
        return []  # a grader that cannot be built has no verdict


def _rows(source: Source, task: Task) -> list[dict[str, Any]]:
    """Each grader: what it has scored, and how it agrees with the newest labels."""
    said = {row["target"]: row["good"] for row in source.rows(_LABELS, [task.task])}
    found: dict[str, list[Mapping[str, Any]]] = {}
    if said:
        ids = sorted(said)
        for row in source.rows(_VERDICTS, [task.task, ids[0], ids[-1], ids]):
            found.setdefault(row["evaluator"], []).append(row)
    counts = source.counts().scores
    decides = votes(source, task)
    rows = []
    for grader in task.graders:
        middle = sum(grader.range) / 2 if isinstance(grader, ScoreModel) else 0.5
        pairs = [
            (row["value"] >= middle, said[row["completion_id"]])
            for row in found.get(grader.name, [])
            if row["value"] is not None and said[row["completion_id"]] is not None
        ]
        scored, unscored, total = counts.get((task.task, grader.name), (0, 0, 0.0))
        own = isinstance(grader, FeedbackGrader)
        rows.append(
            {
                "name": grader.name, "type": grader.type, "scored": scored, "unscored": unscored,
                "mean": total / scored if scored else None,
                "vote": decides.get(grader.name),
                "agreement": None if own else agreement(grader.name, pairs),
            }
        )  # fmt: skip
    return rows


def _means(source: Source, task: str) -> Markup:
    newest = source.row(_NEWEST)["at"]
    if newest is None:
        return Markup("")
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in source.rows(_DAILY, [task, newest - timedelta(days=DAYS)]):
        curves.setdefault(row["evaluator"], []).append((row["day"], row["mean"]))
    last = max((x for points in curves.values() for x, _ in points), default=0.0)
    return lines(
        [Line(name, [(x - last, y) for x, y in points]) for name, points in curves.items()],
        label="mean score by day", across="days", low=0.0, high=1.0,
    )  # fmt: skip

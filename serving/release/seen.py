"""What the lake says of a task's traffic lately: how much, from whom, and how good."""

import time
from collections.abc import Mapping
from typing import NamedTuple

from everlearn.coverage import feedback_names
from everlearn.lake.store import Lake
from everlearn.rules import ReleaseRules
from everlearn.task import Task

RECENT_DAYS = 7
DAY_SECONDS = 86_400.0
MIN_SECONDS = 60.0
"""Shorter traffic says nothing of a day."""
PARTS = 10
"""A release's time is cut into so many; the busiest that was seen is what may be hoped for."""


class Seen(NamedTuple):
    """Of the last days; all zero where there was no traffic."""

    seconds: float = 0.0
    """Between the first and the last request."""
    requests: int = 0
    users: int = 0
    """Different ones in the whole time, here and below by day of each."""
    user_days: int = 0
    conversations: int = 0
    busiest: float = 0.0
    """Requests in a second, in the busiest part."""
    means: Mapping[str, float] = {}
    """By metric."""
    heard: Mapping[str, float] = {}
    """By grader: share of the requests that it scored."""
    audible: float = 1.0
    """Of the units that users spoke of to the primary metric, the share that a release would hear
    of (`audible`)."""

    @property
    def a_day(self) -> float:
        """Requests."""
        return self.requests / self.seconds * DAY_SECONDS if self.seconds >= MIN_SECONDS else 0.0


_TRAFFIC = """
    WITH recent AS (
        SELECT unit, coalesce(conversation_id, unit) AS conversation, received_at, status
        FROM completions
        WHERE task = ? AND received_at >= to_timestamp(?) AND arm IS NOT NULL
            AND status NOT IN ('shadow', 'rejected', 'imported')
    )
    SELECT count(*) AS requests, count(DISTINCT unit) AS users,
        count(DISTINCT (unit, received_at::DATE)) AS user_days,
        count(DISTINCT conversation) AS conversations,
        coalesce(epoch(max(received_at)) - epoch(min(received_at)), 0) AS seconds,
        avg((status = 'ok')::INTEGER) AS ok,
        (SELECT max(n) FROM (
            SELECT count(*) AS n FROM recent GROUP BY floor(epoch(received_at) / ?))) AS busiest
    FROM recent
"""
_SCORES = """
    SELECT evaluator, avg(value) AS mean, count(DISTINCT completion_id) AS scored
    FROM scores JOIN completions USING (completion_id)
    WHERE scores.task = ? AND value IS NOT NULL AND completions.received_at >= to_timestamp(?)
    GROUP BY evaluator
"""


def seen(lake: Lake, task: str, rules: ReleaseRules, now: float | None = None) -> Seen:
    """Of the last `RECENT_DAYS`."""
    since = (time.time() if now is None else now) - RECENT_DAYS * DAY_SECONDS
    part = max(1.0, rules.max_seconds / PARTS)
    row = lake.read(_TRAFFIC, [task, since, part]).to_pylist()[0]
    if not row["requests"]:
        return Seen()
    scores = lake.read(_SCORES, [task, since]).to_pylist()
    means = {each["evaluator"]: min(1.0, max(0.0, float(each["mean"]))) for each in scores}
    return Seen(
        seconds=float(row["seconds"]),
        requests=row["requests"],
        users=row["users"],
        user_days=row["user_days"],
        conversations=row["conversations"],
        busiest=row["busiest"] / part,
        means={**means, "error_rate": float(row["ok"])},
        heard={each["evaluator"]: each["scored"] / row["requests"] for each in scores},
    )


# As `raters.py` counts with both arms alike: the smaller arm has half of the units.
_AUDIBLE = """
    WITH said AS (
        SELECT coalesce(f.author_id, c.unit) AS rater, count(DISTINCT c.unit) AS units
        FROM feedback f JOIN completions c ON c.completion_id = f.target
        WHERE c.task = ? AND c.received_at >= to_timestamp(?) AND c.unit IS NOT NULL
            AND f.author = 'end_user' AND f.name IN (SELECT unnest(?::VARCHAR[]))
        GROUP BY ALL
    )
    SELECT sum(least(units, greatest(1, floor(? * total / 2)))) / sum(units) AS share
    FROM said, (SELECT sum(units) AS total FROM said)
"""


def audible(lake: Lake, task: Task, now: float | None = None) -> float:
    """Of the units that users spoke of in the last `RECENT_DAYS`, the share that is left where
    each user stands behind `trust.max_share_per_rater` of them at most."""
    names = feedback_names(task.grader(task.release_rules.primary), task.graders)
    if not names:
        return 1.0
    since = (time.time() if now is None else now) - RECENT_DAYS * DAY_SECONDS
    asked = [task.task, since, sorted(names), task.trust.max_share_per_rater]
    share = lake.read(_AUDIBLE, asked).to_pylist()[0]["share"]
    return 1.0 if share is None else float(share)


class Stretch(NamedTuple):
    """The busiest stretch of the last days that is as long as a release may last: what may be hoped
    for. All zero where the primary metric has heard of nobody."""

    seconds: float = 0.0
    requests: int = 0
    units: int = 0
    """Different ones: in the end a user who returns counts once."""
    heard: int = 0
    """Of them, with a score of the primary metric in the time in which it would have counted."""
    history_seconds: float = 0.0
    """Of all traffic that was looked at, as the next."""
    history_requests: int = 0


# Up to the last request that the primary metric heard of: scores may be made once a night.
_STRETCH = """
    WITH heard AS (
        SELECT DISTINCT completion_id FROM scores
        WHERE task = ? AND evaluator = ? AND value IS NOT NULL
    ), recent AS (
        SELECT unit, received_at, completion_id IN (SELECT completion_id FROM heard) AS heard
        FROM completions
        WHERE task = ? AND received_at >= to_timestamp(?) AND arm IS NOT NULL
            AND unit IS NOT NULL AND status NOT IN ('shadow', 'rejected', 'imported')
    ), placed AS (
        SELECT *, floor(epoch(last - received_at) / ?) AS part
        FROM recent, (SELECT max(received_at) AS last FROM recent WHERE heard)
        WHERE received_at <= last
    ), parts AS (
        SELECT *, min(received_at) OVER (PARTITION BY unit, part) AS first FROM placed
    )
    SELECT count(*) AS requests, count(DISTINCT unit) AS units,
        count(DISTINCT unit) FILTER (
            heard AND received_at <= first + to_seconds(?)) AS heard,
        epoch(max(max(received_at)) OVER () - min(min(received_at)) OVER ()) AS seconds,
        sum(count(*)) OVER () AS all_requests
    FROM parts GROUP BY part ORDER BY heard DESC, units DESC LIMIT 1
"""


def busiest(lake: Lake, task: str, rules: ReleaseRules, now: float | None = None) -> Stretch:
    """Of the last `RECENT_DAYS`."""
    since = (time.time() if now is None else now) - RECENT_DAYS * DAY_SECONDS
    asked = [task, rules.primary, task, since, rules.max_seconds, rules.unit_close_seconds]
    found = lake.read(_STRETCH, asked).to_pylist()
    if not found:
        return Stretch()
    row = found[0]
    return Stretch(
        seconds=min(rules.max_seconds, float(row["seconds"])),
        requests=row["requests"],
        units=row["units"],
        heard=row["heard"],
        history_seconds=float(row["seconds"]),
        history_requests=int(row["all_requests"]),
    )

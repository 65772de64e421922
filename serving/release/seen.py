"""What the lake says of a task's traffic lately: how much, from whom, and how good."""

import math
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
    unnamed: int = 0
    """Requests that name no conversation."""
    busiest: float = 0.0
    """Requests in a second, in the busiest part."""
    means: Mapping[str, float] = {}
    """By metric."""
    heard: Mapping[str, float] = {}
    """By grader: share of the requests that it scored."""

    @property
    def a_day(self) -> float:
        """Requests."""
        return self.requests / self.seconds * DAY_SECONDS if self.seconds >= MIN_SECONDS else 0.0


_TRAFFIC = """
    WITH recent AS (
        SELECT unit, conversation_id, received_at, status
        FROM completions
        WHERE task = ? AND received_at >= to_timestamp(?) AND arm IS NOT NULL
            AND status NOT IN ('shadow', 'rejected', 'imported')
    )
    SELECT count(*) AS requests, count(DISTINCT unit) AS users,
        count(DISTINCT (unit, received_at::DATE)) AS user_days,
        count(DISTINCT (unit, conversation_id)) FILTER (conversation_id IS NOT NULL)
            AS conversations,
        count(*) FILTER (conversation_id IS NULL) AS unnamed,
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
        AND status <> 'shadow'
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
        unnamed=row["unnamed"],
        busiest=row["busiest"] / part,
        means={**means, "error_rate": float(row["ok"])},
        heard={each["evaluator"]: each["scored"] / row["requests"] for each in scores},
    )


_SAID = """
    SELECT count(*) AS n FROM feedback
    WHERE task = ? AND received_at >= to_timestamp(?) AND name IN (SELECT unnest(?::VARCHAR[]))
"""


def unsaid(lake: Lake, task: Task, name: str, now: float | None = None) -> tuple[str, ...]:
    """The feedback that a grader waits for, where nobody has given any in the last days."""
    names = sorted(feedback_names(task.grader(name), task.graders))
    since = (time.time() if now is None else now) - RECENT_DAYS * DAY_SECONDS
    if not names or lake.read(_SAID, [task.task, since, names])["n"][0].as_py():
        return ()
    return tuple(names)


_WHO = {
    "user": "unit",
    "auto": "unit || chr(30) || coalesce(conversation_id, '')",
    "conversation": "unit || chr(30) || coalesce(conversation_id, completion_id)",
    "request": "completion_id",
}


def _drawn(rules: ReleaseRules) -> str:
    """SQL: who would be drawn by these rules (`gateway.assignment`), told apart."""
    if rules.unit == "request" or not rules.epoch_seconds:
        return _WHO[rules.unit]
    epoch = f"floor(epoch(received_at) / {rules.epoch_seconds!r}::DOUBLE)"
    return f"({_WHO[rules.unit]}) || chr(31) || {epoch}"


_AUDIBLE = """
    WITH said AS (
        SELECT coalesce(f.author_id, c.unit) AS rater, count(DISTINCT c.drawn) AS units
        FROM feedback f JOIN (
            SELECT *, {drawn} AS drawn FROM completions
            WHERE task = ? AND received_at >= to_timestamp(?) AND unit IS NOT NULL
        ) c ON c.completion_id = f.target
        WHERE f.author = 'end_user' AND f.name IN (SELECT unnest(?::VARCHAR[]))
        GROUP BY ALL
    )
    SELECT units, count(*) AS raters FROM said GROUP BY units
"""


def audible(
    lake: Lake, task: Task, rules: ReleaseRules, now: float | None = None
) -> tuple[float, float]:
    """Of the units that users spoke of in the last `RECENT_DAYS`, the share that is left where
    each user stands behind `trust.max_share_per_rater` of those heard at most; and the setting
    with which all would be."""
    names = feedback_names(task.grader(rules.primary), task.graders)
    if not names:
        return 1.0, 0.0
    since = (time.time() if now is None else now) - RECENT_DAYS * DAY_SECONDS
    asked = [task.task, since, sorted(names)]
    rows = lake.read(_AUDIBLE.format(drawn=_drawn(rules)), asked).to_pylist()
    total = sum(row["units"] * row["raters"] for row in rows)
    if not total:
        return 1.0, 0.0
    heard, before = total, 0
    # As `raters.py` counts with both arms alike: the smaller arm has half of what is heard.
    while heard != before:
        most = max(1, int(task.trust.max_share_per_rater * heard / 2))
        before, heard = heard, sum(min(row["units"], most) * row["raters"] for row in rows)
    return heard / total, min(1.0, 2 * max(row["units"] for row in rows) / total)


def pairs_a_day(rules: ReleaseRules, traffic: float, users: int | None) -> float:
    """Shadow pairs of so many requests a day by so many users; None: everybody comes once."""
    copied = traffic * (rules.shadow_pairs.share if rules.shadow_pairs else 1.0)
    if users is None:
        return copied
    # Who comes at all in an epoch, if everybody comes as often.
    epoch = (rules.epoch_seconds or rules.max_seconds) / DAY_SECONDS
    return users * -math.expm1(-copied * epoch / users) / epoch


class Stretch(NamedTuple):
    """The busiest stretch of the last days that is as long as a release may last: what may be hoped
    for. All zero where the primary metric has heard of nobody."""

    seconds: float = 0.0
    requests: int = 0
    units: int = 0
    """Different ones, by who is drawn: in the end a user who returns in an epoch counts once."""
    heard: int = 0
    """Of them, with a score of the primary metric in the time in which it would have counted."""
    history_seconds: float = 0.0
    """Of all traffic that was looked at, as the next."""
    history_requests: int = 0
    audible: float = 1.0
    """Of those heard, the share that one user's share leaves (`audible`), and the
    `trust.max_share_per_rater` that would leave all."""
    fair_share: float = 0.0


# Up to the last request that the primary metric heard of: scores may be made once a night.
_STRETCH = """
    WITH heard AS (
        SELECT DISTINCT completion_id FROM scores
        WHERE task = ? AND evaluator = ? AND value IS NOT NULL
    ), recent AS (
        SELECT {drawn} AS unit, received_at,
            completion_id IN (SELECT completion_id FROM heard) AS heard
        FROM completions
        WHERE task = ? AND received_at >= to_timestamp(?) AND arm IS NOT NULL
            AND completions.unit IS NOT NULL AND status NOT IN ('shadow', 'rejected', 'imported')
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
    found = lake.read(_STRETCH.format(drawn=_drawn(rules)), asked).to_pylist()
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

"""What releases are worth: each champion against the version before it, in those held back.

The releases that count are those still in force: the champion and the chain behind it, back to a
date. Each is compared while its predecessor goes on answering: in the watch, whose units are
frozen already, and after it in the users held back for good, who count once each. Their sum is the
worth of all.

- Every interval is a confidence sequence of the same bets that decide releases: it holds at every
  look, however often one looks. The release in place j has 6 / (pi * j)^2 of the level, which add
  up to it, so the sum of the bounds holds too, however many releases follow.
- A unit of the held back counts a day after it came, by what was scored until then; what comes
  later changes nothing.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from everlearn.graders import ScoreModel
from everlearn.lake.store import Lake
from everlearn.task import Task
from serving.release.analysis import Floats, Observation, Question, Score, values_of
from serving.release.history import events
from serving.release.observations import frozen
from serving.release.states import WATCH, Traffic, chain

LEVEL = 0.05
SETTLE_SECONDS = 86_400.0
COARSE, FINE = 0.025, 0.0025
"""Steps in which an interval is looked for, first everywhere, then about its ends."""
# The share of the challenger at the time is what the champion's own answers say; a unit that was
# on the challenger first is known not to be held back.
_HELD = """
WITH seen AS (
    SELECT unit, arm, version, received_at, completion_id, probability,
        max(probability) FILTER (arm = 'champion') OVER (PARTITION BY release, stage) AS rest
    FROM completions
    WHERE task = ? AND arm IN ('champion', 'challenger', 'holdback') AND unit IS NOT NULL
        AND received_at >= to_timestamp(?) AND received_at < to_timestamp(?)
        AND status <> 'shadow' AND (release IS NULL OR NOT ends_with(release, ?))
    -- Not while several challengers shared the rest: there the champion's say something else.
    WINDOW step AS (PARTITION BY release, stage)
    QUALIFY min(version) FILTER (arm = 'challenger') OVER step
            IS NOT DISTINCT FROM max(version) FILTER (arm = 'challenger') OVER step
        AND min(probability) FILTER (arm = 'champion' AND fallback_from IS NULL) OVER step
            IS NOT DISTINCT FROM
            max(probability) FILTER (arm = 'champion' AND fallback_from IS NULL) OVER step
),
first AS (
    SELECT unit, min(received_at) AS opened,
        arg_min(arm, (received_at, completion_id)) AS arm,
        arg_min(coalesce(rest, 1), (received_at, completion_id)) AS rest,
        max(probability) FILTER (arm = 'holdback') AS share
    FROM seen GROUP BY unit
),
known AS (
    SELECT completion_id, arg_min(value, created_at) AS value, min(created_at) AS at FROM scores
    WHERE task = ? AND evaluator = ? AND value IS NOT NULL GROUP BY completion_id
)
SELECT first.unit, first.arm, first.rest, first.share, avg(known.value) AS value
FROM first JOIN seen ON seen.unit = first.unit AND seen.arm = first.arm
    AND seen.received_at <= first.opened + to_seconds(?)
JOIN known ON known.completion_id = seen.completion_id
    AND known.at <= first.opened + to_seconds(?)
WHERE first.arm <> 'challenger' AND first.opened <= to_timestamp(?)
    AND seen.version = CASE first.arm WHEN 'holdback' THEN ? ELSE ? END
GROUP BY ALL ORDER BY min(first.opened), first.unit
"""


class Part(NamedTuple):
    """One release's worth, in the units of the primary metric (0 to 1)."""

    version: str
    before: str
    since: float
    gain: float | None
    """None: nobody has been compared yet."""
    low: float
    high: float
    units: int
    held_back: int
    """Of the units, answered by the version before."""


class Worth(NamedTuple):
    """Of all releases since a date that are still in force."""

    metric: str
    parts: tuple[Part, ...]

    @property
    def gain(self) -> float | None:
        """Of all together; None where one of them is not known."""
        gains = [part.gain for part in self.parts if part.gain is not None]
        return sum(gains) if gains and len(gains) == len(self.parts) else None

    @property
    def bounds(self) -> tuple[float, float]:
        """Valid at every look."""
        return sum(part.low for part in self.parts), sum(part.high for part in self.parts)

    def to_json(self) -> dict[str, Any]:
        """Shares, not points."""
        parts = [part._asdict() for part in self.parts]
        return {
            "metric": self.metric,
            "gain": self.gain,
            "interval_95": self.bounds,
            "releases": parts,
        }

    def lines(self, task: str, since: str | None) -> list[str]:
        """For people."""
        begun = f" since {since}" if since else ""
        if not self.parts:
            return [f"{task}: no release{begun} is in force"]
        head = f"{task}: what all releases{begun} are worth in {self.metric}"
        lines = [f"{head}: {_points(self.gain, *self.bounds)}"]
        for part in self.parts:
            told = f"{part.units} units, {part.held_back} on the version before"
            gain = _points(part.gain, part.low, part.high)
            lines.append(f"  version {part.version} over {part.before}: {gain} ({told})")
        return lines


def _points(gain: float | None, low: float, high: float) -> str:
    if gain is None:
        return "not known yet: nobody has been compared"
    return f"{100 * gain:+.1f} points, 95 % {100 * low:+.1f} to {100 * high:+.1f}"


def worth(lake: Lake, task: Task, traffic: Traffic, since: float, now: float) -> Worth:
    """Read from the lake; `since` and `now` in Unix seconds."""
    told = events(lake, task.task)
    places = [each.version for each in (traffic.champion, *chain(traffic))]
    found: list[Part] = []
    for version, before in reversed(list(pairwise(places))):
        era = _era(told, version, now)
        if era is None or era[0]["at"] < since:
            continue
        begun, ended = era
        rows = frozen(lake, f"{begun['release_id']}{WATCH}")
        seen = [row.observation for row in rows if row.metric == task.release.primary]
        seen += _held(lake, task, (version, before), (begun["at"], ended, now))
        level = LEVEL * 6 / (math.pi * (len(found) + 1)) ** 2
        there = [each for each in seen if each is not None]
        found.append(_part(version, before, begun["at"], there, level))
    return Worth(task.release.primary, tuple(found))


def _era(
    told: Sequence[dict[str, Any]], version: str, now: float
) -> tuple[dict[str, Any], float] | None:
    """The promotion of a version, and until when it was champion."""
    begun = [row for row in told if row["event"] == "promoted" and row["version"] == version]
    if not begun:
        return None
    ends = [
        row["at"]
        for row in told
        if row["at"] > begun[-1]["at"]
        and (
            row["event"] == "promoted" or (row["event"], row["version"]) == ("rolled_back", version)
        )
    ]
    return begun[-1], min([*ends, now])


def _held(
    lake: Lake, task: Task, versions: tuple[str, str], when: tuple[float, float, float]
) -> list[Observation]:
    """Units of the champion and of those held back for good, once each."""
    if task.release.labels is not None:
        return []  # the judge alone is not believed, and nobody was drawn to be labelled
    (version, before), (begun, ended, now) = versions, when
    primary = task.release.primary
    grader = task.grader(primary)
    low, high = grader.range if isinstance(grader, ScoreModel) else (0.0, 1.0)
    params = [task.task, begun, ended, WATCH, task.task, primary]
    close = task.release.unit_close_seconds
    params += [close, SETTLE_SECONDS, now - SETTLE_SECONDS, before, version]
    rows = lake.read(_HELD, params).to_pylist()
    shares = [row["share"] for row in rows if row["share"] is not None]
    if not shares:
        return []
    share = shares[0]
    seen = []
    for row in rows:
        champion = (1 - share) * row["rest"]
        value = min(1.0, max(0.0, (row["value"] - low) / (high - low)))
        seen.append(Observation(row["arm"] == "champion", champion / (champion + share), value))
    return seen


def _part(
    version: str, before: str, since: float, seen: Sequence[Observation], level: float
) -> Part:
    treated = sum(each.treated for each in seen)
    bounds = bounded(seen, level)
    return Part(version, before, since, estimate(seen), *bounds, len(seen), len(seen) - treated)


def estimate(seen: Sequence[Observation]) -> float | None:
    """The mean effect, each unit weighed by how much its draw could tell."""
    information = sum(each.propensity * (1 - each.propensity) for each in seen)
    if not information or len({each.treated for each in seen}) < 2:
        return None
    counted = values_of(seen)
    mean = sum(counted) / len(seen)
    total = sum(
        (each.treated - each.propensity) * (value - mean)
        for each, value in zip(seen, counted, strict=True)
    )
    return float(total / information)


def bounded(seen: Sequence[Observation], level: float) -> tuple[float, float]:
    """The effects that no bet against them has refuted at the level."""
    points = np.arange(-1.0, 1.0 + COARSE / 2, COARSE)
    kept = points[_kept(seen, points, level)]
    if not len(kept):
        return 0.0, 0.0
    ends = []
    for end, away in ((kept[0], -1), (kept[-1], 1)):
        near = end + away * np.arange(0.0, COARSE + FINE / 2, FINE)
        ends.append(float(near[_kept(seen, near, level)][-1] + away * FINE))
    return max(-1.0, ends[0]), min(1.0, ends[1])


def _kept(seen: Sequence[Observation], points: Floats, level: float) -> Any:
    score = Score([Question(float(h0), sign) for h0 in points for sign in (1, -1)])
    for each in seen:
        score.add(each)
    rejected = score.peak[0].reshape(-1, 2) >= np.log(2 / level)
    return ~rejected.any(axis=1)

"""What happened to a task's releases, from the lake."""

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from everlearn.lake.store import Lake
from serving.release.analysis import Observation, values_of
from serving.release.observations import Counted, frozen, worth
from serving.release.states import Release, Traffic


def events(lake: Lake, task: str, release_id: str | None = None) -> list[dict[str, Any]]:
    """Rows of `releases` in their order; `at` is Unix seconds. None: of every release."""
    sql = """
        SELECT release_id, version, event, phase, stage, percent, reason, evidence,
            epoch(created_at) AS at
        FROM releases WHERE task = ? AND (?::VARCHAR IS NULL OR release_id = ?) ORDER BY created_at
    """
    rows = lake.read(sql, [task, release_id, release_id]).to_pylist()
    return [{**row, "evidence": json.loads(row["evidence"] or "{}")} for row in rows]


def untold(
    traffic: Traffic, told: Sequence[dict[str, Any]], release_id: str
) -> list[dict[str, Any]]:
    """Events of a release that the controller has not written to the lake yet."""
    there = {(round(row["at"], 3), row["event"], row["version"]) for row in told}
    return [
        msgspec.structs.asdict(event)
        for event in traffic.events
        if event.release_id == release_id
        and (round(event.at, 3), event.event, event.version) not in there
    ]


def unheard(lake: Lake, release_id: str) -> list[dict[str, Any]]:
    """By metric: words of users who had their share of the step (`raters.py`), and the units that
    say nothing without them."""
    sql = """
        SELECT metric, sum(unheard)::BIGINT AS words,
            count(*) FILTER (value IS NULL)::BIGINT AS units
        FROM release_units WHERE release_id = ? AND unheard > 0 GROUP BY metric ORDER BY metric
    """
    rows: list[dict[str, Any]] = lake.read(sql, [release_id]).to_pylist()
    return rows


def _free(row: Counted) -> Observation | None:
    """Of a unit that was on the candidate already: nothing was drawn, and its value is known."""
    return None if row.value is None else Observation(row.treated, 1.0, row.value)


def by_arm(lake: Lake, task: str, release: Release) -> dict[str, dict[str, Any]]:
    """Of both arms: good answers, mean seconds, cost of one, and quality: the primary metric's
    mean over closed units. Plain means, for people."""
    primary = release.parsed_rules.primary
    told = worth(lake, task, release)
    rows = [row for row in frozen(lake, release.release_id) if row.metric == primary]
    seen = [row.observation or _free(row) for row in rows]
    there = [each for each in seen if each is not None]
    for each, value in zip(there, values_of(there), strict=True):
        arm = told.get("challenger" if each.treated else "champion")
        if arm is not None:
            arm.setdefault("values", []).append(value)
    for arm in told.values():
        values = arm.pop("values", [])
        arm["quality"] = sum(values) / len(values) if values else None
    return {arm: told[arm] for arm in ("champion", "challenger") if arm in told}

"""How a release went, moment by moment, from its frozen rows: what a picture of it shows."""

from typing import Any, NamedTuple

from everlearn.lake.store import Lake
from serving.release.accounts import Accounts
from serving.release.analysis import Observation, intervals
from serving.release.decide import Evidence
from serving.release.history import events
from serving.release.observations import Counted
from serving.release.states import Release

MOMENTS = 120


class Story(NamedTuple):
    """Everything by seconds since the start."""

    steps: list[tuple[float, float, str]]
    """Second, percent, event."""
    evidence: list[tuple[float, Evidence]]
    effect: list[tuple[float, float, float]]
    """Second, and the interval of the primary effect."""


def story(lake: Lake, task: str, release: Release) -> Story:
    """The same rows, folded by the same Accounts as when it was decided."""
    since = release.created_at
    told = events(lake, task, release.release_id)
    steps = [(row["at"] - since, row["percent"], row["event"]) for row in told]
    rows = _rows(lake, release.release_id)
    accounts = Accounts(release.parsed_rules)
    every = max(1, len(rows) // MOMENTS)
    evidence = []
    heard: list[tuple[float, Observation]] = []
    for place, (at, row) in enumerate(rows, 1):
        accounts.fold([row])
        if row.metric == release.parsed_rules.primary and row.observation is not None:
            heard.append((at - since, row.observation))
        if place % every == 0 or place == len(rows):
            evidence.append((at - since, accounts.evidence()))
    return Story(steps, evidence, _effect(heard))


def _effect(heard: list[tuple[float, Observation]]) -> list[tuple[float, float, float]]:
    every = max(1, len(heard) // MOMENTS)
    after = [*range(every, len(heard), every), len(heard)] if heard else []
    found = intervals([seen for _, seen in heard], after, grid=40)
    return [(heard[n - 1][0], low, high) for n, (low, high) in zip(after, found, strict=True)]


def _rows(lake: Lake, release_id: str) -> list[tuple[float, Counted]]:
    names = ", ".join(Counted._fields)
    sql = (
        f"SELECT {names}, epoch(closed_at) AS at FROM release_units "
        "WHERE release_id = ? ORDER BY position"
    )
    rows: list[dict[str, Any]] = lake.read(sql, [release_id]).to_pylist()
    return [(row.pop("at"), Counted(**row)) for row in rows]

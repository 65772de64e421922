"""Where the rows of a unit went: snapshots, versions, and whether those are served still.

A unit that was erased from the lake is looked for in the manifests of the versions whose rows the
lake has lost in part: what they learned, they know.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from everlearn.lake.store import Lake
from registry.lineage import manifest
from registry.states import VersionState
from registry.versions import ModelVersion, Registry

LIVE = (VersionState.LOADING, VersionState.RAMPING, VersionState.CHAMPION)
SERVING = ("champion", "challenger", "holdback")
"""Aliases whose version answers somebody."""


@dataclass(frozen=True, kw_only=True)
class Use:
    """Rows of the unit in one snapshot, and the versions made of it."""

    task: str
    snapshot_id: str
    rows: dict[str, int]
    """By side."""
    erased: bool
    """They are in the manifest alone, the lake has them no more."""
    versions: list[dict[str, Any]]
    """version, state, aliases, learned (it was taught rows of the unit), served."""


def uses(
    registry: Registry, lake: Lake, name: str, tasks: Iterable[str], *, column: str = "unit"
) -> list[Use]:
    """Every snapshot with rows of the unit, oldest first, of these tasks; by another column of the
    rows, such as `completion_id`, where that is said."""
    wanted = list(tasks)
    made: dict[str, list[ModelVersion]] = {}
    for task in wanted:
        for version in registry.versions(task):
            if version.snapshot_id:
                made.setdefault(version.snapshot_id, []).append(version)
    aliases = {task: registry.aliases(task) for task in wanted}
    there = _in_lake(lake, (column, name), wanted)
    lost = {snapshot: versions[0] for snapshot, versions in made.items() if snapshot not in there}
    found = [
        _use(task, snapshot, rows, made.get(snapshot, []), aliases[task])
        for (snapshot, (task, rows)) in there.items()
    ]
    for snapshot in thinned(lake, lost):
        version = lost[snapshot]
        rows = _in_manifest(registry, version, (column, name))
        if rows:
            versions = made[snapshot]
            found.append(
                _use(version.task, snapshot, rows, versions, aliases[version.task], erased=True)
            )
    return sorted(found, key=lambda use: use.snapshot_id)


Named = tuple[str, str]
"""(column of the rows, what stands there)"""


def _in_lake(lake: Lake, wanted: Named, tasks: list[str]) -> dict[str, tuple[str, dict[str, int]]]:
    """Task and rows by side, by snapshot."""
    column, name = wanted
    sql = f"""SELECT s.task, s.snapshot_id, r.split, count(*) AS rows
        FROM snapshot_rows r JOIN snapshots s USING (snapshot_id)
        WHERE r.{column} = ? AND s.task IN (SELECT unnest(?)) GROUP BY ALL"""
    found: dict[str, tuple[str, dict[str, int]]] = {}
    for row in lake.read(sql, [name, tasks]).to_pylist():
        found.setdefault(row["snapshot_id"], (row["task"], {}))[1][row["split"]] = row["rows"]
    return found


def thinned(lake: Lake, snapshots: Iterable[str]) -> set[str]:
    """Of these snapshots those that have fewer rows than were frozen: only there can a unit be
    that the lake does not know, so nothing that was made of others is fetched."""
    asked = list(snapshots)
    sql = """SELECT s.snapshot_id, any_value(s.counts) AS counts, count(r.snapshot_id) AS rows
        FROM snapshots s LEFT JOIN snapshot_rows r USING (snapshot_id)
        WHERE s.snapshot_id IN (SELECT unnest(?)) GROUP BY ALL"""
    records = {row["snapshot_id"]: row for row in lake.read(sql, [asked]).to_pylist()}
    return {
        snapshot
        for snapshot in asked
        if snapshot not in records or records[snapshot]["rows"] < _frozen(records[snapshot])
    }


def _frozen(record: Mapping[str, Any]) -> int:
    import json

    counts = record["counts"]
    sides = json.loads(counts) if isinstance(counts, str) else counts or {}
    return sum(sum(kinds.values()) for kinds in sides.values())


def _in_manifest(registry: Registry, version: ModelVersion, wanted: Named) -> Counter[str]:
    column, name = wanted
    rows = manifest(registry, version)
    return Counter(str(row["split"]) for row in rows if str(row.get(column)) == name)


def _use(
    task: str,
    snapshot: str,
    rows: dict[str, int],
    versions: Iterable[ModelVersion],
    aliases: Mapping[str, str],
    *,
    erased: bool = False,
) -> Use:
    told = []
    for version in versions:
        names = sorted(name for name, who in aliases.items() if who == version.version)
        told.append(
            {
                "version": version.version,
                "state": str(version.state),
                "aliases": names,
                "learned": bool(rows.get("train")),
                "served": version.state in LIVE or any(name in SERVING for name in names),
            }
        )
    return Use(task=task, snapshot_id=snapshot, rows=rows, erased=erased, versions=told)

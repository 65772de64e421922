"""The rows of frozen datasets, counted in the lake: needs no registry server."""

from collections import Counter, defaultdict
from collections.abc import Iterable

from everlearn.lake.store import Lake

SIDES = ("train", "select", "gate", "dropped")


def count_rows(
    lake: Lake, snapshots: Iterable[str]
) -> tuple[dict[str, dict[str, int]], dict[str, int]]:
    """Rows by side and kind, and different units by side, of these snapshots."""
    # What no person's word stands behind is told apart.
    sql = """SELECT split, unit, count(*) AS rows, coalesce(dropped_reason, CASE
            WHEN author IN ('grader', 'comment', 'verdict', 'best_of') THEN kind || ' by ' || author
            ELSE kind END) AS kind
        FROM snapshot_rows WHERE snapshot_id IN (SELECT unnest(?)) GROUP BY ALL"""
    rows: dict[str, Counter[str]] = defaultdict(Counter)
    units: dict[str, set[str]] = defaultdict(set)
    for row in lake.read(sql, [list(snapshots)]).to_pylist():
        rows[row["split"]][row["kind"]] += row["rows"]
        units[row["split"]].add(row["unit"])
    sides = [side for side in SIDES if side in rows]
    return (
        {side: dict(rows[side].most_common()) for side in sides},
        {side: len(units[side]) for side in sides},
    )

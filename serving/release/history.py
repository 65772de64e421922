"""What happened to a task's releases, from the lake."""

import json
from typing import Any

from everlearn.lake.store import Lake


def events(lake: Lake, task: str, release_id: str | None = None) -> list[dict[str, Any]]:
    """Rows of `releases` in their order; `at` is Unix seconds. None: of every release."""
    sql = """
        SELECT release_id, version, event, phase, stage, percent, reason, evidence,
            epoch(created_at) AS at
        FROM releases WHERE task = ? AND (?::VARCHAR IS NULL OR release_id = ?) ORDER BY created_at
    """
    rows = lake.read(sql, [task, release_id, release_id]).to_pylist()
    return [{**row, "evidence": json.loads(row["evidence"] or "{}")} for row in rows]

"""`GET /datasets`, `GET /datasets/{id}`: frozen datasets, the rows kept, dropped and why."""

import json
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from console.render import page
from console.source import Asks, Read, sees
from console.tracking import versions
from everlearn.errors import NotFound

router = APIRouter()

_ALL = """
    SELECT snapshot_id, task, lake_snapshot, content_hash, counts, created_at FROM snapshots
    WHERE {where} ORDER BY created_at DESC LIMIT 100
"""
_ONE = "SELECT * FROM snapshots WHERE snapshot_id = ?"
_ROWS = """
    SELECT completion_id, unit, split, dropped_reason, kind, author, weight,
        left(coalesce(target, completion), 300) AS text
    FROM snapshot_rows WHERE snapshot_id = ? AND split = ? AND (? = '' OR
        coalesce(dropped_reason, kind) = ?) AND completion_id > ?
    ORDER BY completion_id LIMIT 51
"""


@router.get("/datasets", response_class=HTMLResponse)
def datasets(request: Request, source: Read, asked: Asks) -> HTMLResponse:
    """The list."""
    where, params = asked.where()
    rows = source.rows(_ALL.format(where=where), params)
    for row in rows:
        row["sizes"] = {split: sum(told.values()) for split, told in _counts(row).items()}
    return page(request, "datasets", asked=asked, rows=rows)


@router.get("/datasets/{snapshot_id}", response_class=HTMLResponse)
def dataset(
    request: Request, source: Read, asked: Asks, snapshot_id: str, split: str = "train",
    why: str = "", after: str = "",
) -> HTMLResponse:  # fmt: skip
    """One of them."""
    found = source.rows(_ONE, [snapshot_id])
    if not found:
        raise NotFound(f"no dataset {snapshot_id}")
    sees(asked.person, found[0]["task"], "dataset")
    rows = source.rows(_ROWS, [snapshot_id, split, why, why, after])
    known = versions(source.service, found[0]["task"])
    return page(
        request, "dataset", row=found[0], counts=_counts(found[0]), rows=rows[:50], split=split,
        why=why, made=[each for each in known.rows if each.snapshot == snapshot_id],
        problem=known.problem, after=rows[49]["completion_id"] if len(rows) > 50 else None,
    )  # fmt: skip


def _counts(row: dict[str, Any]) -> dict[str, dict[str, int]]:
    """By split (or `dropped`), by kind or reason: what is no such count is left out."""
    told = json.loads(row["counts"] or "{}")
    nested = {split: each for split, each in told.items() if isinstance(each, dict)}
    return {
        split: {name: n for name, n in each.items() if isinstance(n, int)}
        for split, each in nested.items()
    }

"""`GET /versions`: the versions of a task; with `version` one of them, what taught it and what
became of it.

MLflow knows run, dataset and gate, the lake rows and releases: what one of them knows is shown
while the other is away.
"""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from console.render import page
from console.source import Asks, Read, Source
from console.tracking import Version, Versions, versions
from everlearn.errors import NotFound
from gateway.routes import TaskRoute, read_routes
from registry.rows import count_rows

router = APIRouter()

BASE = "base"
_RELEASES = """
    SELECT release_id, arg_max(phase, created_at) AS phase, max(percent) AS percent,
        arg_max(reason, created_at) AS reason, max(created_at) AS ended_at
    FROM releases WHERE task = ? AND version = ? GROUP BY release_id ORDER BY ended_at DESC
"""
_ANSWERED = """
    SELECT received_at FROM completions WHERE task = ? AND version = ?
    ORDER BY received_at DESC LIMIT 1
"""


@router.get("/versions", response_class=HTMLResponse)
def all_versions(request: Request, source: Read, asked: Asks, version: str = "") -> HTMLResponse:
    """The list of one task, or one version of it."""
    task = asked.one
    found = versions(source.service, task) if task else Versions([])
    served = _served(read_routes(source.service.routes_path).tasks.get(task))
    if not version:
        return page(request, "versions", asked=asked, found=found, served=served)
    made = next((each for each in found.rows if each.version == version), None)
    releases = source.rows(_RELEASES, [task, version])
    answered = source.rows(_ANSWERED, [task, version])
    known = made or releases or answered or version in served or version == BASE
    if not known and found.problem is None:
        there = ", ".join(each.version for each in found.rows) or "only the base model"
        raise NotFound(f"task {task} has no version {version!r}; there are: {there}")
    rows, units = _rows(source, made)
    return page(
        request, "version", asked=asked, version=version, made=made, problem=found.problem,
        served=served.get(version), releases=releases, rows=rows, units=units,
        latest=answered[0]["received_at"] if answered else None,
        mlflow=source.service.mlflow.tracking_uri,
    )  # fmt: skip


def _rows(source: Source, made: Version | None) -> tuple[dict[str, Any], dict[str, int]]:
    """What it learned from, by side and kind, and how many users' that is."""
    if made is None or not made.snapshot:
        return {}, {}
    return count_rows(source.lake, [made.snapshot])


def _served(routes: TaskRoute | None) -> dict[str, str]:
    """By version: as what it answers now."""
    if routes is None:
        return {BASE: "champion"}
    arms = ("holdback", "challenger", "champion")
    held = {name: getattr(routes, name) for name in arms}
    return {arm.version: name for name, arm in held.items() if arm is not None}

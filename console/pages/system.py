"""`GET /system`: whether everything arrives, who runs, room on the disk, who may what."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from console.render import page
from console.source import Asks, Read, Source
from everlearn.config import Key, Service
from everlearn.keys import stored_keys

router = APIRouter()

ASK_SECONDS = 0.2
"""A process on this network that takes longer is shown as away."""
KEPT_SECONDS = 5.0
_AUDIT = "SELECT * FROM audit ORDER BY audit_id DESC LIMIT 30"
_DEAD = "SELECT gateway_id, seq, reason, received_at FROM dead_letters ORDER BY received_at DESC"


@router.get("/system", response_class=HTMLResponse)
def system(request: Request, source: Read, asked: Asks) -> HTMLResponse:
    """The page."""
    ledger, disk = source.capture(), shutil.disk_usage(source.service.data_path)
    keys = [] if asked.person.tasks else _keys(source)
    return page(
        request, "system", asked=asked, capture=ledger.value, drawn_at=ledger.at, disk=disk,
        processes=processes(source), keys=keys, audit=source.rows(_AUDIT),
        dead=source.rows(f"{_DEAD} LIMIT 20"), places=_places(source.service),
    )  # fmt: skip


def processes(source: Source) -> list[dict[str, Any]]:
    """Who answers, and which adapters a model server holds; looked at once in a while."""

    def look() -> list[dict[str, Any]]:
        addresses = list(_addresses(source.service).items())
        with ThreadPoolExecutor(max_workers=len(addresses)) as pool:
            return list(pool.map(lambda each: _look(*each), addresses))

    return source.kept("processes", look, seconds=KEPT_SECONDS).value


def _addresses(service: Service) -> dict[str, str]:
    gateway = f"http://{service.gateway.host}:{service.gateway.port}/health"
    found = {"gateway": gateway, "mlflow": f"{service.mlflow.tracking_uri}/health"}
    for name, upstream in service.upstreams.items():
        for number, address in enumerate(upstream.addresses):
            suffix = f" {number + 1}" if upstream.replicas else ""
            found[f"model server {name}{suffix}"] = f"{address.rstrip('/')}/models"
    return found


def _look(name: str, address: str) -> dict[str, Any]:
    row = {"name": name, "address": address.rsplit("/", 1)[0], "adapters": []}
    try:
        answer = httpx.get(address, timeout=ASK_SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return {**row, "state": f"away: {type(error).__name__}", "up": False}
    state = "answers" if answer.status_code < 500 else f"answers {answer.status_code}"
    if address.endswith("/models") and answer.status_code == 200:
        row["adapters"] = _models(answer)
    return {**row, "state": state, "up": answer.status_code < 500}


def _models(answer: httpx.Response) -> list[str]:
    try:
        return [str(each["id"]) for each in answer.json()["data"]]
    except (ValueError, KeyError, TypeError):
        return []


def _keys(source: Source) -> list[dict[str, Any]]:
    stored, _ = stored_keys(source.state)
    rows: list[tuple[Key, str, float | None]] = [
        *((key, "config", None) for key in source.service.gateway.keys),
        *((key, "store", key.revoked_at) for key in stored),
    ]
    return [
        {"id": key.id, "role": key.role, "tasks": key.tasks, "source": place, "revoked_at": revoked}
        for key, place, revoked in rows
    ]


def _places(service: Service) -> dict[str, str]:
    lake, state = service.lake.catalog, service.state.url
    return {
        "data folder": str(service.data_path),
        "event log": service.bus.kind,
        "lake's catalog": lake.partition(":")[0] if lake else "sqlite",
        "state store": state.partition(":")[0] if state else "sqlite",
    }

"""A running gateway for tests, in the test's own event loop, and what it captured."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from everlearn.config import Service
from everlearn.events import Completion, Event, Feedback, decode
from everlearn.log.segments import Entry, entries, segments
from everlearn.task import load_tasks
from gateway.http.client import Limits
from gateway.http.server import Server
from gateway.routes import ArmRoute, Routes, TaskRoute, write_routes
from gateway.worker import running
from tests.builders import make_service

CHAT = {"model": "text2sql", "messages": [{"role": "user", "content": "how many orders?"}]}
ASKED = {**CHAT, "model": "base", "return_token_ids": True}
"""The same as the upstream gets it."""
BASE = ArmRoute(version="base", model="base")


class Door:
    """A gateway and a client of it."""

    def __init__(self, service: Service, server: Server, client: httpx.AsyncClient) -> None:
        self.service = service
        self.server = server
        self.client = client

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    async def chat(self, headers: Mapping[str, str] | None = None, **fields: Any) -> httpx.Response:
        return await self.client.post(
            "/v1/chat/completions", json={**CHAT, **fields}, headers=headers
        )

    def events(self) -> list[Event]:
        return captured(self.service)

    def completions(self) -> list[Completion]:
        return [event for event in self.events() if isinstance(event, Completion)]

    def feedback(self) -> list[Feedback]:
        return [event for event in self.events() if isinstance(event, Feedback)]


def captured(service: Service) -> list[Event]:
    """Every event in the write-ahead logs of a service."""
    return [
        decode(entry.payload)
        for folder in sorted(service.wal_path.iterdir())
        if folder.is_dir()
        for first, path in segments(folder)
        for entry in entries(path.read_bytes(), 0, first - 1)
        if isinstance(entry, Entry)
    ]


def write_task(folder: Path, name: str = "text2sql", **fields: Any) -> None:
    """A task file in a service's folder."""
    content = {
        "task": name,
        "base_model": "base",
        "upstream": "local",
        "graders": [{"name": "thumbs", "type": "feedback"}],
        **fields,
    }
    (folder / "tasks").mkdir(parents=True, exist_ok=True)
    (folder / "tasks" / f"{name}.yaml").write_text(yaml.safe_dump(content))


def route(service: Service, task: str = "text2sql", generation: int = 1, **fields: Any) -> None:
    """Write a route for one task."""
    table = {task: TaskRoute(**{"champion": BASE, **fields})}
    write_routes(service.routes_path, Routes(generation=generation, tasks=table))


@asynccontextmanager
async def door(
    folder: Path,
    upstream: str,
    *,
    more_upstreams: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    limits: Limits | None = None,
    routes: dict[str, Any] | None = None,
    task: bool = True,
    **gateway: Any,
) -> AsyncIterator[Door]:
    """A gateway in front of `upstream` with one task, text2sql, unless the test wrote its own;
    `settings` are those of the upstream, `gateway` those of the gateway section."""
    service = make_service(
        folder,
        upstreams={
            "local": {"base_url": upstream, "kind": "vllm", **(settings or {})},
            **(more_upstreams or {}),
        },
        gateway={"port": 0, "drain_seconds": 2.0, **gateway},
    )
    if task:
        write_task(folder)
    if routes is not None:
        route(service, **routes)
    async with running(service, load_tasks(service), limits=limits) as server:
        base = f"http://127.0.0.1:{server.port}"
        async with httpx.AsyncClient(base_url=base, timeout=20) as client:
            yield Door(service, server, client)

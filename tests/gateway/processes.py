"""`everlearn gateway` as a process of its own."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from everlearn.config import Service
from tests.builders import make_service
from tests.gateway.backend import Backend
from tests.gateway.door import write_task

Running = tuple[Service, httpx.AsyncClient, "asyncio.subprocess.Process"]


@asynccontextmanager
async def process(
    folder: Path, upstream: Backend, port: int, *, data_dir: Path | None = None, **gateway: Any
) -> AsyncIterator[Running]:
    """`everlearn gateway` in front of `upstream`."""
    local = {"base_url": upstream.url, "kind": "vllm"}
    service = make_service(
        folder,
        upstreams={"local": local},
        gateway={"port": port, "drain_seconds": 5, **gateway},
        data_dir=str(data_dir or folder / ".everlearn"),
    )
    write_task(folder)
    command = (sys.executable, "-m", "everlearn", "gateway", "--config")
    child = await asyncio.create_subprocess_exec(
        *command, str(folder / "everlearn.yaml"), cwd=Path(__file__).parents[2],
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            await _ready(client)
            yield service, client, child
    finally:
        if child.returncode is None:
            child.terminate()
        await asyncio.wait_for(child.wait(), 20)


async def _ready(client: httpx.AsyncClient) -> None:
    """Once it listens; on a full disk under `reject` it does and is not ready."""
    async with asyncio.timeout(60):
        while True:
            try:
                await client.get("/health")
                return
            except httpx.TransportError:
                await asyncio.sleep(0.1)


async def workers(client: httpx.AsyncClient) -> dict[int, dict[str, Any]]:
    """What each worker says of its health, by index, from fresh connections."""
    seen: dict[int, dict[str, Any]] = {}
    for _ in range(16):
        async with httpx.AsyncClient(base_url=client.base_url) as fresh:
            try:
                health = (await fresh.get("/health")).json()
            except httpx.TransportError:
                continue
            seen[health["worker"]] = health
    return seen


async def all_workers(client: httpx.AsyncClient, count: int) -> dict[int, dict[str, Any]]:
    """The same, once `count` of them answer."""
    async with asyncio.timeout(60):
        while len(found := await workers(client)) < count:
            await asyncio.sleep(0.2)
    return found

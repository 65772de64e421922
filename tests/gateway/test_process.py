"""The gateway as a process: workers on one port, drain on SIGTERM, light imports, state routes."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from everlearn.events import Completion
from tests.gateway.backend import STREAM_HEAD, Call, backend, chat_chunk, chunk
from tests.gateway.door import CHAT, captured, door
from tests.gateway.processes import all_workers, process, workers
from tests.scrape import value

pytestmark = pytest.mark.anyio
REQUESTS = "everlearn_gateway_requests_total"
HEAVY = ("torch", "transformers", "trl", "mlflow", "peft", "duckdb", "pyarrow", "sqlalchemy")


def test_importing_the_gateway_imports_nothing_heavy() -> None:
    code = (
        "import sys, gateway.main, gateway.worker, everlearn.cli.gateway\n"
        f"print(*[name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


async def test_sigterm_lets_requests_finish_and_loses_nothing(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    async def slow(call: Call, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        for _ in range(10):
            writer.write(chunk(chat_chunk("x")))
            await writer.drain()
            await asyncio.sleep(0.1)
        writer.write(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    async with backend(slow) as upstream, process(tmp_path, upstream, free_port()) as running:
        service, client, child = running
        body = {**CHAT, "stream": True}
        asked = [
            asyncio.create_task(client.post("/v1/chat/completions", json=body)) for _ in range(5)
        ]
        while len(upstream.calls) < 5:
            await asyncio.sleep(0.01)
        child.terminate()
        await asyncio.sleep(0.3)
        with pytest.raises(httpx.TransportError):
            await client.get("/ready")
        answers = await asyncio.gather(*asked)
        assert all(got.text.endswith("data: [DONE]\n\n") for got in answers)
        assert await asyncio.wait_for(child.wait(), 10) == 0
    events = [event for event in captured(service) if isinstance(event, Completion)]
    assert [event.status for event in events] == ["ok"] * 5


async def test_workers_share_a_port_and_one_that_dies_is_started_again(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    async with (
        backend() as upstream,
        process(tmp_path, upstream, free_port(), workers=2) as (service, client, _),
    ):
        first = (await all_workers(client, 2))[0]["pid"]
        os.kill(first, signal.SIGKILL)
        async with asyncio.timeout(60):
            while (await workers(client)).get(0, {"pid": first})["pid"] == first:
                await asyncio.sleep(0.2)
        for _ in range(20):
            async with httpx.AsyncClient(base_url=client.base_url) as fresh:
                assert (await fresh.post("/v1/chat/completions", json=CHAT)).status_code == 200
        async with asyncio.timeout(10):
            while value((await client.get("/metrics")).text, REQUESTS, code="200") != 20:
                await asyncio.sleep(0.5)
    assert len(captured(service)) == 20
    assert len(list(service.wal_path.iterdir())) == 2


async def test_health_and_readiness(tmp_path: Path) -> None:
    async with backend() as upstream, door(tmp_path, upstream.url, docs=True) as gate:
        await gate.chat()
        health = (await gate.client.get("/health")).json()
        assert (health["status"], health["warnings"]) == ("ok", [])
        assert health["capture"]["acknowledged"] == 1
        assert health["capture"]["dropped"] == 0
        assert (await gate.client.get("/ready")).json() == {"ready": True}
        assert (await gate.client.get("/nowhere")).json()["error"]["type"] == "not_found_error"
        assert (await gate.client.put("/v1/chat/completions")).status_code in (404, 405)
        assert (await gate.client.head("/health")).content == b""
        paths = (await gate.client.get("/openapi.json")).json()["paths"]
        assert {"/v1/feedback", "/v1/models", "/health", "/ready", "/metrics"} <= set(paths)

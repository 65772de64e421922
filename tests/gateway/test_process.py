"""The gateway as a process: workers on one port, drain on SIGTERM, light imports, state routes."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from everlearn.config import Service
from everlearn.events import Completion
from tests.builders import make_service
from tests.gateway.backend import STREAM_HEAD, Backend, Call, backend, chat_chunk, chunk
from tests.gateway.door import CHAT, captured, door, write_task

pytestmark = pytest.mark.anyio
HEAVY = ("torch", "transformers", "trl", "mlflow", "peft", "duckdb", "pyarrow", "sqlalchemy")


def test_importing_the_gateway_imports_nothing_heavy() -> None:
    code = (
        "import sys, gateway.main, gateway.worker, everlearn.cli.gateway\n"
        f"print(*[name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@asynccontextmanager
async def process(
    folder: Path, upstream: Backend, port: int, **gateway: Any
) -> AsyncIterator[tuple[Service, httpx.AsyncClient, "asyncio.subprocess.Process"]]:
    """`everlearn gateway` in front of `upstream`."""
    local = {"base_url": upstream.url, "kind": "vllm"}
    service = make_service(
        folder, upstreams={"local": local}, gateway={"port": port, "drain_seconds": 5, **gateway}
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
    async with asyncio.timeout(60):
        while True:
            try:
                if (await client.get("/ready")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.1)


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
        async with asyncio.timeout(60):
            while len(workers := await _workers(client)) < 2:
                await asyncio.sleep(0.2)
        os.kill(workers[0], signal.SIGKILL)
        async with asyncio.timeout(60):
            while (await _workers(client)).get(0, workers[0]) == workers[0]:
                await asyncio.sleep(0.2)
        for _ in range(20):
            async with httpx.AsyncClient(base_url=client.base_url) as fresh:
                assert (await fresh.post("/v1/chat/completions", json=CHAT)).status_code == 200
        async with asyncio.timeout(10):
            while (counted := await _counted(client)) != 20:
                await asyncio.sleep(0.5)
        assert counted == 20
    assert len(captured(service)) == 20
    assert len(list(service.wal_path.iterdir())) == 2


async def _workers(client: httpx.AsyncClient) -> dict[int, int]:
    """Process ids by worker index, from fresh connections."""
    seen: dict[int, int] = {}
    for _ in range(16):
        async with httpx.AsyncClient(base_url=client.base_url) as fresh:
            try:
                health = (await fresh.get("/health")).json()
            except httpx.TransportError:
                continue
            seen[health["worker"]] = health["pid"]
    return seen


async def _counted(client: httpx.AsyncClient) -> float:
    text = (await client.get("/metrics")).text
    rows = re.findall(
        r'^everlearn_gateway_requests_total\{[^}]*code="200"[^}]*\} (\S+)', text, re.M
    )
    return sum(map(float, rows))


async def test_metrics_say_what_happened(tmp_path: Path) -> None:
    async with backend() as upstream, door(tmp_path, upstream.url) as gate:
        await gate.chat()
        await gate.chat(stream=True)
        await gate.client.post("/v1/feedback", json={"completion_id": "a", "value": True})
        await gate.client.post("/v1/chat/completions", content=b"bad")
        text = (await gate.client.get("/metrics")).text
    labels = 'arm="champion",code="200",endpoint="chat/completions",status="ok",task="text2sql"'
    assert f"everlearn_gateway_requests_total{{{labels}}} 2.0" in text
    assert 'everlearn_gateway_feedback_total{status="accepted"} 1.0' in text
    assert "gen_ai_server_request_duration_seconds_bucket" in text
    assert "gen_ai_server_time_to_first_token_seconds_count" in text
    assert 'gen_ai_client_token_usage_sum{arm="champion",gen_ai_token_type="output"' in text
    assert "everlearn_capture_acknowledged 4.0" in text


async def test_health_and_readiness(tmp_path: Path) -> None:
    async with backend() as upstream, door(tmp_path, upstream.url) as gate:
        await gate.chat()
        health = (await gate.client.get("/health")).json()
        assert (health["status"], health["warnings"]) == ("ok", [])
        assert health["capture"]["acknowledged"] == 1
        assert health["capture"]["dropped"] == 0
        assert (await gate.client.get("/ready")).json() == {"ready": True}
        assert (await gate.client.get("/nowhere")).json()["error"]["type"] == "not_found_error"
        assert (await gate.client.get("/v1/chat/completions")).status_code in (404, 405)
        assert (await gate.client.head("/health")).content == b""
        paths = (await gate.client.get("/openapi.json")).json()["paths"]
        assert {"/v1/feedback", "/v1/models", "/health", "/ready", "/metrics"} <= set(paths)

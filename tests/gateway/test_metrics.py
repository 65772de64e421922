"""`/metrics` says what happened, in numbers that a dashboard may trust."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from everlearn.log.segments import segments
from gateway.routes import ArmRoute
from tests.gateway.backend import (
    STREAM_HEAD,
    Call,
    answer,
    backend,
    chat_body,
    chat_chunk,
    chunk,
    event,
    plain,
)
from tests.gateway.door import CHAT, Door, captured, door
from tests.gateway.processes import all_workers, process
from tests.scrape import value

pytestmark = pytest.mark.anyio

REQUESTS = "everlearn_gateway_requests_total"
DURATION = "gen_ai_server_request_duration_seconds"
FIRST_TOKEN = "gen_ai_server_time_to_first_token_seconds"
TOKENS = "gen_ai_client_token_usage"
CHALLENGER = ArmRoute(version="v1", model="v1")


async def scraped(gate: Door) -> str:
    return (await gate.client.get("/metrics")).text


async def test_requests_are_counted_by_what_became_of_them(tmp_path: Path) -> None:
    async def fails_on_demand(call: Call, writer: asyncio.StreamWriter) -> None:
        if b"fail" in call.raw:
            writer.write(answer(b'{"error":{}}', 400))
        else:
            await plain(call, writer)

    async with backend(fails_on_demand) as upstream, door(tmp_path, upstream.url) as gate:
        for _ in range(3):
            await gate.chat()
        await gate.chat(stream=True)
        await gate.chat(user="fail")
        await gate.client.post("/v1/chat/completions", content=b"bad")
        body = {"model": "text2sql", "prompt": "x"}
        await gate.client.post("/v1/completions", json=body)
        feedback = {"completion_id": "a", "value": True, "idempotency_key": "k"}
        for _ in range(3):
            await gate.client.post("/v1/feedback", json=feedback)
        text = await scraped(gate)
    chat = {"endpoint": "chat/completions"}
    arm = {"task": "text2sql", "arm": "champion"}
    assert value(text, REQUESTS, **chat, **arm, status="ok", code="200") == 4
    assert value(text, REQUESTS, **chat, **arm, status="upstream_error", code="400") == 1
    assert value(text, REQUESTS, **chat, task="", arm="", status="rejected", code="400") == 1
    assert value(text, REQUESTS, endpoint="completions", **arm, code="200") == 1
    assert value(text, REQUESTS) == 7
    assert value(text, "everlearn_gateway_feedback_total", status="accepted") == 1
    assert value(text, "everlearn_gateway_feedback_total", status="duplicate") == 2


async def test_durations_and_first_tokens_are_seconds_in_cumulative_buckets(
    tmp_path: Path,
) -> None:
    async def slow(call: Call, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.3)
        if not call.body.get("stream"):
            writer.write(answer(chat_body()))
            return
        writer.write(STREAM_HEAD + chunk(chat_chunk("x")))
        await writer.drain()
        await asyncio.sleep(0.3)
        writer.write(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    async with backend(slow) as upstream, door(tmp_path, upstream.url) as gate:
        await asyncio.gather(gate.chat(), gate.chat(), gate.chat(stream=True))
        text = await scraped(gate)
    labels = {"gen_ai_operation_name": "chat", "task": "text2sql", "arm": "champion"}
    assert value(text, f"{DURATION}_count", **labels) == 3
    assert 1.2 <= value(text, f"{DURATION}_sum", **labels) < 4
    assert value(text, f"{DURATION}_bucket", **labels, le="0.25") == 0
    assert value(text, f"{DURATION}_bucket", **labels, le="+Inf") == 3
    assert value(text, f"{FIRST_TOKEN}_count", **labels) == 1, "only streams have a first token"
    first = value(text, f"{FIRST_TOKEN}_sum", **labels)
    assert 0.3 <= first < value(text, f"{DURATION}_sum", **labels) - 0.6
    edges = ("0.25", "0.5", "1.0", "2.5", "5.0", "+Inf")
    counts = [value(text, f"{DURATION}_bucket", **labels, le=edge) for edge in edges]
    assert counts == sorted(counts)


async def test_tokens_are_the_upstreams_own_count_streamed_or_not(tmp_path: Path) -> None:
    async def counts(call: Call, writer: asyncio.StreamWriter) -> None:
        if not call.body.get("stream"):
            await plain(call, writer)
            return
        usage = {"prompt_tokens": 100, "completion_tokens": 40, "total_tokens": 140}
        last = event({"id": "u", "choices": [], "usage": usage})
        pieces = (chat_chunk("x"), last, b"data: [DONE]\n\n")
        writer.write(STREAM_HEAD + b"".join(map(chunk, pieces)) + b"0\r\n\r\n")

    async with backend(counts) as upstream, door(tmp_path, upstream.url) as gate:
        await gate.chat()
        await gate.chat()
        await gate.chat(stream=True)
        text = await scraped(gate)
    for kind, total in (("input", 3 + 3 + 100), ("output", 5 + 5 + 40)):
        labels = {"gen_ai_token_type": kind, "task": "text2sql", "arm": "champion"}
        assert value(text, f"{TOKENS}_count", **labels) == 3
        assert value(text, f"{TOKENS}_sum", **labels) == total
        assert value(text, f"{TOKENS}_bucket", **labels, le="16.0") == 2


async def test_gauges_are_the_state_of_now(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def held(call: Call, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        await plain(call, writer)

    async with backend(held) as upstream, door(tmp_path, upstream.url) as gate:
        asked = [asyncio.create_task(gate.chat()) for _ in range(3)]
        async with asyncio.timeout(10):
            while len(upstream.calls) < 3:
                await asyncio.sleep(0.01)
        during = await scraped(gate)
        release.set()
        await asyncio.gather(*asked)
        after = await scraped(gate)
        held_bytes = sum(
            path.stat().st_size
            for folder in gate.service.wal_path.iterdir()
            if folder.is_dir()
            for _, path in segments(folder)
        )
    assert value(during, "everlearn_gateway_in_flight") == 3
    assert value(during, "everlearn_gateway_connections") == 4
    assert value(during, "everlearn_capture_acknowledged") == 0
    assert value(after, "everlearn_gateway_in_flight") == 0
    assert value(after, "everlearn_capture_acknowledged") == 3
    assert value(after, "everlearn_capture_bytes") == held_bytes > 0
    assert value(after, "everlearn_capture_dropped") == 0
    assert value(after, "everlearn_capture_errors") == 0


async def test_retries_and_fallbacks_are_counted(tmp_path: Path) -> None:
    async def refuses_the_challenger(call: Call, writer: asyncio.StreamWriter) -> None:
        if call.body["model"] == "v1":
            writer.write(answer(b"{}", 404))
        elif len(upstream.calls) == 2:
            writer.write(answer(b"{}", 503, retry_after="0"))
        else:
            await plain(call, writer)

    routes = {"challenger": CHALLENGER, "challenger_share": 1.0, "release": "r", "stage": 1}
    async with (
        backend(refuses_the_challenger) as upstream,
        door(tmp_path, upstream.url, routes=routes) as gate,
    ):
        assert (await gate.chat()).status_code == 200
        text = await scraped(gate)
    assert value(text, "everlearn_gateway_fallbacks_total", fallback_from="challenger") == 1
    assert value(text, "everlearn_gateway_retries") == 1
    assert value(text, REQUESTS, arm="challenger", code="404", status="upstream_error") == 1
    assert value(text, REQUESTS, arm="champion", code="200", status="ok") == 1


async def test_whichever_worker_is_scraped_answers_for_all(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """Drops too: `/health` of a worker that has dropped nothing says what the others lost."""
    capture = {"wal_max_bytes": 16384}
    async with (
        backend() as upstream,
        process(tmp_path, upstream, free_port(), workers=2, capture=capture) as running,
    ):
        service, client, _ = running
        await all_workers(client, 2)
        for _ in range(60):
            async with httpx.AsyncClient(base_url=client.base_url) as fresh:
                assert (await fresh.post("/v1/chat/completions", json=CHAT)).status_code == 200
        kept = len(captured(service))
        assert 0 < kept < 60
        warning = f"{60 - kept} events were dropped: the log or the disk was full"
        async with asyncio.timeout(20):
            while True:
                found = (await all_workers(client, 2)).values()
                if all(warning in health["warnings"] for health in found):
                    break
                await asyncio.sleep(0.5)
        assert sum(health["capture"]["dropped"] for health in found) == 60 - kept
        texts = [(await client.get("/metrics")).text]
        for _ in range(8):
            async with httpx.AsyncClient(base_url=client.base_url) as fresh:
                texts.append((await fresh.get("/metrics")).text)
        for text in texts:
            assert value(text, REQUESTS, status="ok", code="200") == 60
            assert value(text, f"{DURATION}_count", task="text2sql") == 60
            assert value(text, f"{TOKENS}_sum", gen_ai_token_type="output") == 60 * 5
            assert value(text, "everlearn_capture_acknowledged") == kept
            assert value(text, "everlearn_capture_dropped") == 60 - kept

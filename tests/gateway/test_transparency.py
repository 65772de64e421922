"""What a client sees through the gateway equals what it sees direct."""

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway.backend import STREAM_HEAD, Call, backend, chat_chunk, chunk
from tests.gateway.door import Door, door
from tests.gateway.rich import rich

pytestmark = pytest.mark.anyio

ASK: list[tuple[str, dict[str, Any]]] = [
    ("chat/completions", {"messages": [{"role": "user", "content": "größe 漢字 🙂"}]}),
    ("chat/completions", {"messages": [{"role": "user", "content": "a"}], "n": 3}),
    ("chat/completions", {"messages": [{"role": "user", "content": "a"}], "stream": True}),
    ("chat/completions", {"messages": [], "unknown": {"model": "x", "deep": [1, {"a": None}]}}),
    ("completions", {"prompt": "a"}),
    ("completions", {"prompt": "a", "stream": True}),
    ("embeddings", {"input": ["a", "b"]}),
    ("embeddings", {"input": "a", "encoding_format": "base64"}),
    ("responses", {"input": "a"}),
    ("responses", {"input": "a", "stream": True}),
]
HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date"}


def _headers(got: httpx.Response) -> list[tuple[str, str]]:
    return [
        pair
        for pair in got.headers.multi_items()
        if pair[0] not in HOP
        and not pair[0].startswith("x-everlearn")
        and pair[0] != "x-request-id"
    ]


@pytest.mark.parametrize(("path", "fields"), ASK)
@pytest.mark.parametrize("model", ["text2sql", "m"])
async def test_status_headers_and_bytes_are_those_of_the_upstream(
    tmp_path: Path, path: str, fields: dict[str, Any], model: str
) -> None:
    async with backend(rich) as upstream, door(tmp_path, upstream.url) as gate:
        body = {"model": model, **fields}
        through = await gate.client.post(f"/v1/{path}?a=b&c=%20d", json=body)
        async with httpx.AsyncClient(base_url=upstream.url) as direct:
            straight = await direct.post(f"/{path}?a=b&c=%20d", json=body)
        assert through.status_code == straight.status_code
        assert through.content == straight.content
        assert _headers(through) == _headers(straight)
        sent, seen = upstream.calls[1], upstream.calls[0]
        assert seen.path == sent.path
        expected = sent.raw.replace(b'"text2sql"', b'"base"')
        if path in ("chat/completions", "completions"):
            expected = expected.replace(b"{", b'{"return_token_ids":true,', 1)
        assert seen.raw == expected
        names = ("content-type", "accept", "user-agent")
        assert [seen.headers[name] for name in names] == [sent.headers[name] for name in names]
        [event] = gate.completions()
        assert event.response == straight.content
        assert event.endpoint == path


async def test_models_are_the_tasks_and_those_of_the_upstream(tmp_path: Path) -> None:
    async with backend(rich) as upstream, door(tmp_path, upstream.url) as gate:
        listed = (await gate.client.get("/v1/models")).json()
        assert listed["object"] == "list"
        assert [row["id"] for row in listed["data"]] == ["text2sql", "m", "n"]
        assert (await gate.client.get("/v1/models/text2sql")).json()["owned_by"] == "everlearn"
        assert (await gate.client.get("/v1/models/m")).status_code == 200
        await upstream.stop()
        alone = (await gate.client.get("/v1/models")).json()
        assert [row["id"] for row in alone["data"]] == ["text2sql"]
        assert (await gate.client.get("/v1/models/m")).status_code == 404


async def test_every_event_arrives_when_it_is_sent(tmp_path: Path) -> None:
    """Each event is sent only after the client has the one before: a buffer anywhere would hang."""
    received: asyncio.Queue[int] = asyncio.Queue()

    async def in_step(call: Call, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        for number in range(20):
            writer.write(chunk(chat_chunk(str(number))))
            await writer.drain()
            assert await asyncio.wait_for(received.get(), 5) == number
        writer.write(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    async with backend(in_step) as upstream, door(tmp_path, upstream.url) as gate:
        seen = 0
        async with _stream(gate) as got:
            async for line in got.aiter_lines():
                if line.startswith("data: {"):
                    received.put_nowait(seen)
                    seen += 1
        assert seen == 20


async def test_the_head_of_a_stream_does_not_wait_for_its_first_event(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def thinks(call: Call, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        await writer.drain()
        await release.wait()
        writer.write(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    async with (
        backend(thinks) as upstream,
        door(tmp_path, upstream.url) as gate,
        asyncio.timeout(5),
        _stream(gate) as got,
    ):
        assert got.status_code == 200
        release.set()
        assert await got.aread() == b"data: [DONE]\n\n"


async def test_a_slow_reader_slows_the_upstream_and_not_the_memory(tmp_path: Path) -> None:
    sent = 0
    block = chat_chunk("x" * 60_000)

    async def pours(call: Call, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(STREAM_HEAD)
        for _ in range(400):
            writer.write(chunk(block))
            await writer.drain()
            sent += len(block)
        writer.write(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    async with backend(pours) as upstream, door(tmp_path, upstream.url) as gate:
        async with _stream(gate) as got:
            parts = got.aiter_raw()
            first = await anext(parts)
            await _settled(lambda: sent)
            assert sent < 400 * len(block)
            total = len(first) + sum([len(part) async for part in parts])
        assert total == 400 * len(block) + len(b"data: [DONE]\n\n")


async def _settled(value: Any) -> None:
    """Wait until a number no longer grows."""
    last, since = value(), time.monotonic()
    while time.monotonic() - since < 0.5:
        await asyncio.sleep(0.05)
        if value() != last:
            last, since = value(), time.monotonic()


def _stream(gate: Door) -> Any:
    body = {"model": "text2sql", "messages": [], "stream": True}
    return gate.client.stream("POST", "/v1/chat/completions", json=body)

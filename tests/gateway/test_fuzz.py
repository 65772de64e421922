"""Fuzz, bounded in time: bytes into the HTTP and SSE parsing, and our own OpenAPI document."""

import asyncio
import random
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.http.channel import UpstreamFailure
from gateway.http.client import Client
from gateway.http.stream import Relay
from tests.gateway.backend import Call, backend, chat_chunk, plain
from tests.gateway.door import door
from tests.gateway.raw import post, wire
from tests.gateway.rich import rich

SECONDS = 6.0
SEED = 20261121
PIECES = (
    b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b"\xff\xfe", b"0\r\n\r\n", b"ffffffffffffffff\r\n",
    b"content-length: 5\r\n", b"transfer-encoding: chunked\r\n", b"HTTP/1.1 200 OK\r\n",
    b"POST / HTTP/1.1\r\n", b'{"model":"text2sql"}', b"connection: upgrade\r\nupgrade: x\r\n",
    b"expect: 100-continue\r\n",
)  # fmt: skip


def _spoiled(data: bytes, chance: random.Random) -> bytes:
    """`data` with some bytes changed, cut, doubled or put in."""
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        kind = chance.randrange(4)
        if kind == 0:
            data = data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]
        elif kind == 1:
            data = data[:at] + chance.choice(PIECES) + data[at:]
        elif kind == 2:
            data = data[:at] + data[at + chance.randrange(1, 40) :]
        else:
            data = data[:at] + data[max(0, at - 30) : at] * 2 + data[at:]
    return data


@pytest.mark.anyio
async def test_no_bytes_of_a_client_break_the_gateway(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chance = random.Random(SEED)
    tried, until = 0, time.monotonic() + SECONDS
    async with backend() as upstream, door(tmp_path, upstream.url) as gate:
        while time.monotonic() < until:
            async with wire(gate) as line:
                data = _spoiled(post() + post(), chance)
                at = chance.randrange(len(data) + 1)
                await line.send(data[:at])
                await line.send(data[at:])
                line.writer.write_eof()
                answer = await line.rest(10)
            assert answer == b"" or answer.startswith(b"HTTP/1.1 "), data
            assert b" 500 " not in answer.split(b"\r\n", 1)[0], data
            tried += 1
        assert (await gate.chat()).status_code == 200
    assert "request failed in the gateway" not in caplog.text
    assert tried > 50


@pytest.mark.anyio
async def test_no_bytes_of_an_upstream_break_the_gateway(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chance = random.Random(SEED)
    good = (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        b"5\r\n: hi\n\r\n10\r\ndata: {\"a\": 12}\n\n\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
    )  # fmt: skip

    async def spoiled(call: Call, writer: asyncio.StreamWriter) -> None:
        writer.write(_spoiled(good, chance))
        await writer.drain()
        writer.close()

    tried, until = 0, time.monotonic() + SECONDS
    settings = {"max_retries": 0, "chunk_timeout_seconds": 0.5, "first_byte_timeout_seconds": 0.5}
    settings["answer_timeout_seconds"] = 0.5
    async with (
        backend(spoiled) as upstream,
        door(tmp_path, upstream.url, settings=settings) as gate,
    ):
        while time.monotonic() < until:
            got = await gate.chat(stream=True)
            assert got.status_code != 500
            tried += 1
        upstream.reply = plain
        await asyncio.sleep(1.2)
        async with asyncio.timeout(40):
            while (await gate.chat()).status_code != 200:
                await asyncio.sleep(0.5)
        assert len(gate.completions()) >= tried
    assert "request failed in the gateway" not in caplog.text
    assert tried > 50


class _Taker(Client):
    """A client that keeps what it is sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.flow = None
        self.ended = False

    def write(self, piece: bytes) -> None:
        self.sent.append(piece)

    def passing(self) -> None:
        return None

    def end(self, piece: bytes = b"") -> None:
        if piece:
            self.sent.append(piece)
        self.ended = True


@pytest.mark.anyio
async def test_however_a_stream_is_cut_its_bytes_stay_its_bytes() -> None:
    chance = random.Random(SEED)
    text = b": hi\r\n\r\n" + chat_chunk("größe 漢字") + b"event: x\rdata: 1\r\r" + chat_chunk(None)
    text += b"data: [DONE]\n\n"
    for number in range(400):
        client = _Taker()
        recorded: list[Any] = []

        def record(
            outcome: Any, response: bytes, error: str | None, then: Any, into: list[Any] = recorded
        ) -> None:
            into.append((outcome, response))
            then()

        channel: Any = None
        relay = Relay(client, channel, record=record, first=lambda: None, done=lambda: None)
        cuts = sorted(chance.randrange(len(text) + 1) for _ in range(chance.randrange(12)))
        breaks = number % 3 == 0
        stop = chance.randrange(len(text)) if breaks else len(text)
        for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
            if piece := text[start : min(end, stop)]:
                relay.piece(piece)
        if breaks:
            relay.failed(UpstreamFailure("reset", "cut"))
        else:
            relay.ended()
        sent = b"".join(client.sent)
        assert client.ended
        assert len(recorded) == 1
        if not breaks:
            assert sent == text
            assert recorded[0][0] == "ok"
        elif b"[DONE]\n" not in text[:stop]:
            whole, error = sent.rsplit(b"\ndata: ", 1)
            assert text.startswith(whole)
            assert b'"error"' in error
            assert recorded[0] == ("upstream_error", text[:stop])


@pytest.mark.anyio
async def test_no_request_of_our_own_description_is_a_server_error(tmp_path: Path) -> None:
    async with backend(rich) as upstream, door(tmp_path, upstream.url, docs=True) as gate:
        document = tmp_path / "openapi.json"
        document.write_text((await gate.client.get("/openapi.json")).text)
        command = [
            sys.executable, "-m", "schemathesis.cli", "run", str(document), "--url", gate.url,
            "--checks", "not_a_server_error", "--phases", "fuzzing", "--max-examples", "25",
            "--generation-deterministic", "--no-color",
        ]  # fmt: skip
        process = await asyncio.create_subprocess_exec(
            *command, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        async with asyncio.timeout(120):
            said, _ = await process.communicate()
        assert process.returncode == 0, said.decode()[-3000:]
        assert len(upstream.calls) > 20
        assert (await gate.chat()).status_code == 200

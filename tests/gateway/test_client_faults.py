"""Bad input from clients: every one has its answer, and the gateway goes on."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from gateway.http.client import Limits
from gateway.upstream import Upstream
from tests.gateway.backend import STREAM_HEAD, Call, answer, backend, chat_body, plain
from tests.gateway.door import ASKED, CHAT, Door, door
from tests.gateway.raw import post, wire

pytestmark = pytest.mark.anyio

QUICK = Limits(
    body_bytes=4096,
    head_bytes=2048,
    head_seconds=0.6,
    body_seconds=3.0,
    body_gap_seconds=0.6,
    idle_seconds=0.6,
)


async def still_works(gate: Door) -> None:
    assert (await gate.chat()).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "invalid_json"),
        (b"not json", 400, "invalid_json"),
        (b"[]", 400, "invalid_type"),
        (b"{}", 400, "invalid_type"),
        (b'{"model": 5}', 400, "invalid_type"),
        (b'{"model": "text2sql", "stream": "yes"}', 400, "invalid_type"),
        (b'{"model": "\xff\xfe"}', 400, "invalid_json"),
        (b'{"model": "text2sql"', 400, "invalid_json"),
        (b'{"model": "text2sql"} trailing', 400, "invalid_json"),
        (b'{"a":' * 2000 + b"1" + b"}" * 2000, 400, "invalid_json"),
    ],
)
async def test_a_bad_body_is_400_in_the_error_shape_and_captured(
    tmp_path: Path, body: bytes, status: int, code: str
) -> None:
    async with backend() as upstream, door(tmp_path, upstream.url) as gate:
        got = await gate.client.post("/v1/chat/completions", content=body)
        assert got.status_code == status
        error = got.json()["error"]
        assert error["code"] == code
        assert error["type"] == "invalid_request_error"
        assert "Traceback" not in got.text
        [event] = gate.completions()
        assert (event.status, event.http_status, event.request) == ("rejected", 400, body)
        assert upstream.calls == []
        await still_works(gate)


async def test_an_unknown_model_is_404_without_a_default_upstream(tmp_path: Path) -> None:
    async with backend() as upstream, door(tmp_path, upstream.url) as gate:
        gate.service.__dict__["default_upstream"] = None
        got = await gate.chat(model="nobody")
        assert got.status_code == 404
        assert got.json()["error"]["code"] == "model_not_found"
        [event] = gate.completions()
        assert (event.status, event.http_status) == ("rejected", 404)


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_limit_is_413(tmp_path: Path, chunked: bool) -> None:
    async with backend() as upstream, door(tmp_path, upstream.url, limits=QUICK) as gate:
        async with wire(gate) as line:
            big = b"x" * 5000
            if chunked:
                data = post(
                    b"%x\r\n%b\r\n0\r\n\r\n" % (len(big), big), "transfer-encoding: chunked"
                )
            else:
                data = post(big)
            await line.send(data)
            status, headers, body = await line.answer()
            assert (status, headers["connection"]) == (413, "close")
            assert json.loads(body)["error"]["code"] == "body_too_large"
            assert await line.rest() == b""
        [event] = gate.completions()
        assert (event.status, event.http_status) == ("rejected", 413)
        await still_works(gate)


async def test_a_body_that_is_announced_too_large_is_refused_before_it_comes(
    tmp_path: Path,
) -> None:
    async with (
        backend() as upstream,
        door(tmp_path, upstream.url, limits=QUICK) as gate,
        wire(gate) as line,
    ):
        await line.send(post(b"", "content-length: 5000"))
        assert (await line.answer(0.5))[0] == 413


async def test_headers_over_the_limit_are_431(tmp_path: Path) -> None:
    async with backend() as upstream, door(tmp_path, upstream.url, limits=QUICK) as gate:
        for data in (post(None, "x-big: " + "y" * 3000), b"GET /" + b"a" * 3000):
            async with wire(gate) as line:
                await line.send(data)
                status, _, _ = await line.answer()
                assert status == 431
        await still_works(gate)


async def test_slow_headers_are_cut_off(tmp_path: Path) -> None:
    async with (
        backend() as upstream,
        door(tmp_path, upstream.url, limits=QUICK) as gate,
        wire(gate) as line,
    ):
        started = asyncio.get_running_loop().time()
        for byte in post()[:8]:
            await line.send(bytes([byte]))
            await asyncio.sleep(0.1)
        status, _, _ = await line.answer()
        assert status == 408
        assert asyncio.get_running_loop().time() - started < 3
        await still_works(gate)


@pytest.mark.parametrize(
    ("pause", "least", "most"),
    [(0.1, QUICK.body_seconds, 9.0), (30.0, QUICK.body_gap_seconds, QUICK.body_seconds)],
)
async def test_a_slow_body_is_cut_off_however_it_drips(
    tmp_path: Path, pause: float, least: float, most: float
) -> None:
    async with (
        backend() as upstream,
        door(tmp_path, upstream.url, limits=QUICK) as gate,
        wire(gate) as line,
    ):
        data = post(json.dumps({**CHAT, "user": "u" * 100}).encode())
        assert data.index(b"\r\n\r\n") < len(data) - 150
        started = asyncio.get_running_loop().time()
        await line.send(data[:-100])
        drip = asyncio.create_task(_drip(line.writer, data[-100:], pause))
        status, _, _ = await line.answer()
        took = asyncio.get_running_loop().time() - started
        assert status == 408
        assert least <= took < most
        drip.cancel()
        assert upstream.calls == []
        await still_works(gate)


async def _drip(writer: asyncio.StreamWriter, data: bytes, seconds: float) -> None:
    for byte in data:
        writer.write(bytes([byte]))
        await asyncio.sleep(seconds)


async def test_a_connection_that_sends_nothing_is_closed_quietly(tmp_path: Path) -> None:
    async with (
        backend() as upstream,
        door(tmp_path, upstream.url, limits=QUICK) as gate,
        wire(gate) as line,
    ):
        assert await line.rest(3) == b""


async def test_an_idle_connection_is_closed_quietly(tmp_path: Path) -> None:
    async with (
        backend() as upstream,
        door(tmp_path, upstream.url, limits=QUICK) as gate,
        wire(gate) as line,
    ):
        await line.send(post())
        assert (await line.answer())[0] == 200
        assert await line.rest(3) == b""


async def test_bytes_one_by_one_make_a_request(tmp_path: Path) -> None:
    async with (
        backend() as upstream,
        door(tmp_path, upstream.url) as gate,
        wire(gate) as line,
    ):
        for byte in post():
            line.writer.write(bytes([byte]))
            await asyncio.sleep(0)
        assert (await line.answer())[0] == 200


async def test_a_chunked_body_is_taken_and_sent_on_whole(tmp_path: Path) -> None:
    async with (
        backend() as upstream,
        door(tmp_path, upstream.url) as gate,
        wire(gate) as line,
    ):
        content = json.dumps(CHAT).encode()
        body = b"".join(b"%x\r\n%b\r\n" % (1, content[i : i + 1]) for i in range(len(content)))
        await line.send(post(body + b"0\r\n\r\n", "Transfer-Encoding: chunked"))
        assert (await line.answer())[0] == 200
        assert upstream.calls[0].body == ASKED
        assert "transfer-encoding" not in upstream.calls[0].headers


async def test_pipelined_requests_are_answered_in_their_order(tmp_path: Path) -> None:
    async def slow_first(call: Call, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.3 if call.headers["x-request-id"] == "r0" else 0)
        writer.write(answer(chat_body()))

    async with (
        backend(slow_first) as upstream,
        door(tmp_path, upstream.url) as gate,
        wire(gate) as line,
    ):
        await line.send(b"".join(post(None, f"x-request-id: r{number}") for number in range(40)))
        for number in range(40):
            status, headers, _ = await line.answer()
            assert (status, headers["x-request-id"]) == (200, f"r{number}")
        assert len(gate.completions()) == 40


@pytest.mark.parametrize("keep", [False, True])
async def test_http_1_0_is_answered(tmp_path: Path, keep: bool) -> None:
    async with (
        backend() as upstream,
        door(tmp_path, upstream.url) as gate,
        wire(gate) as line,
    ):
        lines = ["connection: keep-alive"] if keep else []
        await line.send(post(None, *lines, version="1.0"))
        status, headers, _ = await line.answer()
        assert (status, headers.get("connection")) == (200, "keep-alive" if keep else "close")
        if keep:
            await line.send(post(None, version="1.0"))
            assert (await line.answer())[0] == 200
        assert await line.rest() == b""


async def test_a_stream_over_http_1_0_ends_with_the_connection(tmp_path: Path) -> None:
    async with (
        backend() as upstream,
        door(tmp_path, upstream.url) as gate,
        wire(gate) as line,
    ):
        await line.send(post(json.dumps({**CHAT, "stream": True}).encode(), version="1.0"))
        status, headers, _ = await line.answer()
        assert status == 200
        assert "transfer-encoding" not in headers
        assert (await line.rest()).endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("protocol", ["websocket", "h2c"])
async def test_an_upgrade_is_not_taken_up(tmp_path: Path, protocol: str) -> None:
    async with (
        backend() as upstream,
        door(tmp_path, upstream.url) as gate,
        wire(gate) as line,
    ):
        await line.send(post(None, "connection: upgrade", f"upgrade: {protocol}"))
        assert (await line.answer())[0] == 200
        assert upstream.calls[0].body == ASKED
        assert "upgrade" not in upstream.calls[0].headers
        await line.send(post())
        assert (await line.answer())[0] == 200


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n"


@pytest.mark.parametrize(
    "head",
    [
        "content-length: 5\r\ncontent-length: 40",
        "content-length: 5\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 5",
        "transfer-encoding: xchunked",
        "transfer-encoding: chunked, identity",
        "transfer-encoding : chunked",
        "content-length: +5",
        "content-length: 5, 5",
        "content-length: -1",
        "content-length: 5\r\n\tfolded: 1",
    ],
)
async def test_shapes_of_request_smuggling_are_refused(tmp_path: Path, head: str) -> None:
    async with backend() as upstream, door(tmp_path, upstream.url) as gate:
        async with wire(gate) as line:
            start = (
                f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n{head}\r\n\r\n".encode()
            )
            await line.send(start + b"0\r\n\r\n" + SMUGGLED)
            status, headers, _ = await line.answer()
            assert (status, headers["connection"]) == (400, "close")
            assert await line.rest() == b""
        assert upstream.calls == []
        await still_works(gate)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\0" * 99,
    ],
)
async def test_what_is_not_http_is_refused(tmp_path: Path, data: bytes) -> None:
    async with backend() as upstream, door(tmp_path, upstream.url) as gate:
        async with wire(gate) as line:
            await line.send(data)
            rest = await line.rest()
            assert rest == b"" or rest.startswith(b"HTTP/1.1 400 ")
        await still_works(gate)


async def test_expect_continue_is_granted(tmp_path: Path) -> None:
    async with (
        backend() as upstream,
        door(tmp_path, upstream.url) as gate,
        wire(gate) as line,
    ):
        data = post(None, "expect: 100-continue")
        head, body = data.split(b"\r\n\r\n", 1)
        await line.send(head + b"\r\n\r\n")
        assert await line.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await line.send(body)
        assert (await line.answer())[0] == 200
        assert "expect" not in upstream.calls[0].headers


async def test_of_duplicate_keys_the_last_counts_here_and_upstream(tmp_path: Path) -> None:
    async with backend() as upstream, door(tmp_path, upstream.url) as gate:
        body = b'{"model": "other", "messages": [{"model": "x"}], "model": "text2sql", "n": 1}'
        got = await gate.client.post("/v1/chat/completions", content=body)
        assert got.headers["x-everlearn-task"] == "text2sql"
        expected = body.replace(b'"text2sql"', b'"base"')
        assert upstream.calls[0].raw == expected.replace(b"{", b'{"return_token_ids":true,', 1)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_away_is_noticed_upstream(tmp_path: Path, stream: bool) -> None:
    async def never_ends(call: Call, writer: asyncio.StreamWriter) -> None:
        if stream:
            head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
            writer.write(head + b'data: {"part": 1}\n\n')
        await asyncio.wait_for(call.aborted.wait(), 5)

    async with backend(never_ends) as upstream, door(tmp_path, upstream.url) as gate:
        async with wire(gate) as line:
            await line.send(post(json.dumps({**CHAT, "stream": stream}).encode()))
            if stream:
                await line.reader.readuntil(b"part")
            while not upstream.calls:
                await asyncio.sleep(0.01)
            line.writer.transport.abort()
        await asyncio.wait_for(upstream.calls[0].aborted.wait(), 1)
        [event] = gate.completions()
        assert (event.status, event.http_status) == ("client_abort", 200 if stream else 499)
        assert event.response == (b'data: {"part": 1}\n\n' if stream else b"")
        upstream.reply = plain
        await still_works(gate)


async def test_a_client_that_leaves_in_the_turn_in_which_its_stream_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never_ends(call: Call, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        await asyncio.wait_for(call.aborted.wait(), 5)

    send = Upstream.send

    async def send_and_leave(self: Upstream, *arguments: Any, **named: Any) -> Any:
        found = await send(self, *arguments, **named)
        (client,) = gate.server.clients
        client.connection_lost(None)
        return found

    monkeypatch.setattr(Upstream, "send", send_and_leave)
    async with (
        backend(never_ends) as upstream,
        door(tmp_path, upstream.url) as gate,
        wire(gate) as line,
    ):
        await line.send(post(json.dumps({**CHAT, "stream": True}).encode()))
        while not upstream.calls:
            await asyncio.sleep(0.01)
        await asyncio.wait_for(upstream.calls[0].aborted.wait(), 1)
        [event] = gate.completions()
        assert (event.status, event.response) == ("client_abort", b"")
        assert (await gate.client.get("/health")).json()["status"] == "ok"


async def test_overload_is_503_with_retry_after(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def waits(call: Call, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.write(answer(chat_body()))

    async with backend(waits) as upstream, door(tmp_path, upstream.url, max_concurrent=3) as gate:
        running = [asyncio.create_task(gate.chat()) for _ in range(3)]
        while len(upstream.calls) < 3:
            await asyncio.sleep(0.01)
        refused = await gate.chat()
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.json()["error"]["code"] == "overloaded"
        release.set()
        assert [got.status_code for got in await asyncio.gather(*running)] == [200] * 3
        assert sorted(event.http_status for event in gate.completions()) == [200, 200, 200, 503]

"""Upstreams that misbehave: retries and fallbacks before the first byte, clean errors after it."""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.backend import (
    STREAM_HEAD,
    Backend,
    Call,
    answer,
    backend,
    chat_body,
    chat_chunk,
    chunk,
    plain,
)
from tests.gateway.door import door

pytestmark = pytest.mark.anyio


def says(*pieces: bytes, pause: float = 0.0, then_cut: bool = False) -> Any:
    """A backend that sends these bytes."""

    async def reply(call: Call, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)
        if then_cut:
            writer.transport.abort()

    return reply


async def nothing(call: Call, writer: asyncio.StreamWriter) -> None:
    await asyncio.wait_for(call.aborted.wait(), 20)


async def test_a_dead_upstream_is_502_and_captured(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    async with door(tmp_path, f"http://127.0.0.1:{free_port()}/v1") as gate:
        got = await gate.chat()
        assert got.status_code == 502
        assert got.json()["error"]["code"] == "connect"
        [event] = gate.completions()
        assert (event.status, event.http_status) == ("upstream_error", 502)
        assert event.error is not None
        assert "refused" in event.error


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\x01\x02 garbage \xff\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n",
        b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
    ],
)
async def test_garbage_is_502(tmp_path: Path, garbage: bytes) -> None:
    async with backend(says(garbage)) as upstream:
        settings = {"max_retries": 0, "answer_timeout_seconds": 5}
        async with door(tmp_path, upstream.url, settings=settings) as gate:
            got = await gate.chat()
            assert got.status_code == 502
            assert got.json()["error"]["code"] == "garbage"
            assert gate.completions()[0].status == "upstream_error"


async def test_an_upstream_that_never_answers_is_504_within_its_time(tmp_path: Path) -> None:
    async with backend(nothing) as upstream:
        settings = {"answer_timeout_seconds": 0.5}
        async with door(tmp_path, upstream.url, settings=settings) as gate:
            started = time.monotonic()
            got = await gate.chat()
            assert time.monotonic() - started < 3
            assert (got.status_code, got.json()["error"]["code"]) == (504, "timeout")
            [event] = gate.completions()
            assert (event.status, event.http_status) == ("timeout", 504)
            await asyncio.wait_for(upstream.calls[0].aborted.wait(), 1)


async def test_a_whole_answer_that_is_cut_is_asked_for_again(tmp_path: Path) -> None:
    async def first_cut(call: Call, writer: asyncio.StreamWriter) -> None:
        whole = answer(chat_body())
        if len(upstream.calls) == 1:
            writer.write(whole[:-20])
            await writer.drain()
            writer.transport.abort()
        else:
            writer.write(whole)

    async with backend(first_cut) as upstream, door(tmp_path, upstream.url) as gate:
        got = await gate.chat()
        assert got.content == chat_body()
        assert len(upstream.calls) == 2
        assert len(gate.completions()) == 1


@pytest.mark.parametrize("where", ["between events", "inside an event", "between lines"])
async def test_a_stream_that_is_cut_ends_with_a_clean_error(tmp_path: Path, where: str) -> None:
    event = chat_chunk("SEL")
    cut = {"between events": b"", "inside an event": event[:30], "between lines": event[:-1]}
    sent = event + cut[where]
    async with (
        backend(says(STREAM_HEAD, chunk(sent), then_cut=True)) as upstream,
        door(tmp_path, upstream.url) as gate,
    ):
        got = await gate.chat(stream=True)
        assert got.status_code == 200
        events = [line for line in got.text.split("\n") if line.startswith("data: ")]
        parsed = [json.loads(line[6:]) for line in events]
        assert parsed[0]["choices"][0]["delta"]["content"] == "SEL"
        assert parsed[-1]["error"]["code"] == "upstream_error"
        assert len(parsed) == (3 if where == "between lines" else 2)
        [captured] = gate.completions()
        assert (captured.status, captured.http_status) == ("upstream_error", 200)
        assert captured.response == sent


async def test_a_stream_that_stalls_ends_with_a_clean_error(tmp_path: Path) -> None:
    async def stalls(call: Call, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(chat_chunk("SEL")))
        await nothing(call, writer)

    settings = {"chunk_timeout_seconds": 0.4}
    async with backend(stalls) as upstream, door(tmp_path, upstream.url, settings=settings) as gate:
        got = await gate.chat(stream=True)
        last = [line for line in got.text.split("\n") if line][-1]
        assert json.loads(last[6:])["error"]["code"] == "timeout"
        [captured] = gate.completions()
        assert (captured.status, captured.response) == ("timeout", chat_chunk("SEL"))


async def test_an_error_event_in_the_stream_is_handed_on_and_recorded(tmp_path: Path) -> None:
    error = b'data: {"error": {"message": "out of memory", "code": 500}}\n\n'
    pieces = (STREAM_HEAD, chunk(chat_chunk("SEL")), chunk(error), b"0\r\n\r\n")
    async with backend(says(*pieces)) as upstream, door(tmp_path, upstream.url) as gate:
        got = await gate.chat(stream=True)
        assert got.content == chat_chunk("SEL") + error
        [captured] = gate.completions()
        assert captured.status == "upstream_error"


async def test_a_stream_in_segments_of_one_byte_arrives_unchanged(tmp_path: Path) -> None:
    text = chat_chunk("größe 漢字 🙂") + chat_chunk(None, "stop") + b"data: [DONE]\n\n"
    whole = STREAM_HEAD + chunk(text) + b"0\r\n\r\n"
    pieces = [whole[at : at + 1] for at in range(len(whole))]
    async with backend(says(*pieces)) as upstream, door(tmp_path, upstream.url) as gate:
        got = await gate.chat(stream=True)
        assert got.content == text
        [captured] = gate.completions()
        assert (captured.status, captured.response[: len(text) - 1]) == ("ok", text[:-1])


@pytest.mark.parametrize("stream", [False, True])
async def test_ten_megabytes_in_one_piece_arrive_unchanged(tmp_path: Path, stream: bool) -> None:
    big = "x" * 10_000_000
    if stream:
        text = chat_chunk(big) + b"data: [DONE]\n\n"
        reply = says(STREAM_HEAD + chunk(text) + b"0\r\n\r\n")
    else:
        text = chat_body(big)
        reply = says(answer(text))
    async with backend(reply) as upstream, door(tmp_path, upstream.url) as gate:
        got = await gate.chat(stream=stream)
        assert got.content == text
        assert gate.completions()[0].status == "ok"


async def test_comments_keep_alives_and_odd_line_ends_arrive_unchanged(tmp_path: Path) -> None:
    text = b': ping\n\nevent: message\r\nid: 7\r\ndata: {"a": 1}\r\n\r\n'
    text += b": ping\rretry: 5\r\rdata:[DONE]\r\r"
    async with (
        backend(says(STREAM_HEAD, chunk(text), b"0\r\n\r\n")) as upstream,
        door(tmp_path, upstream.url) as gate,
    ):
        assert (await gate.chat(stream=True)).content == text
        assert gate.completions()[0].status == "ok"


@pytest.mark.parametrize("status", [502, 503, 504, 429])
async def test_a_sick_answer_is_asked_for_again(tmp_path: Path, status: int) -> None:
    async def sick_once(call: Call, writer: asyncio.StreamWriter) -> None:
        first = len(upstream.calls) == 1
        writer.write(answer(b"{}", status) if first else answer(chat_body()))

    async with backend(sick_once) as upstream, door(tmp_path, upstream.url) as gate:
        assert (await gate.chat()).status_code == 200
        assert len(upstream.calls) == 2


async def test_a_short_retry_after_is_waited_for_and_a_long_one_passed_on(tmp_path: Path) -> None:
    waits = {1: "0.4", 2: "", 3: "60"}

    async def limited(call: Call, writer: asyncio.StreamWriter) -> None:
        wait = waits[len(upstream.calls)]
        writer.write(answer(b"{}", 429, retry_after=wait) if wait else answer(chat_body()))

    async with backend(limited) as upstream, door(tmp_path, upstream.url) as gate:
        started = time.monotonic()
        assert (await gate.chat()).status_code == 200
        assert 0.4 <= time.monotonic() - started < 3
        got = await gate.chat()
        assert (got.status_code, got.headers["retry-after"]) == (429, "60")
        assert len(upstream.calls) == 3


async def test_a_client_error_of_the_upstream_is_passed_on_at_once(tmp_path: Path) -> None:
    body = b'{"error": {"message": "max_tokens is too large", "type": "invalid_request_error"}}'
    async with backend(says(answer(body, 400))) as upstream, door(tmp_path, upstream.url) as gate:
        got = await gate.chat()
        assert (got.status_code, got.content) == (400, body)
        assert len(upstream.calls) == 1


async def test_a_dead_replica_costs_no_request(tmp_path: Path) -> None:
    async with backend() as one, backend() as two:
        settings = {"replicas": [two.url]}
        async with door(tmp_path, one.url, settings=settings) as gate:
            for _ in range(10):
                assert (await gate.chat()).status_code == 200
            assert len(one.calls) == len(two.calls) == 5
            await two.stop()
            for _ in range(30):
                assert (await gate.chat()).status_code == 200
            assert len(one.calls) == 35


async def test_a_replica_that_comes_back_is_asked_again(tmp_path: Path) -> None:
    async with backend() as one, backend() as two:
        port = two.port
        settings = {"replicas": [two.url], "health_check_seconds": 0.2}
        async with door(tmp_path, one.url, settings=settings) as gate:
            await two.stop()
            for _ in range(10):
                await gate.chat()
            await two.start(port)
            async with asyncio.timeout(10):
                while not two.calls[-1:] or not two.calls[-1].path.endswith("models"):
                    await asyncio.sleep(0.05)
            before = sum(call.path.endswith("completions") for call in two.calls)
            for _ in range(10):
                assert (await gate.chat()).status_code == 200
            after = sum(call.path.endswith("completions") for call in two.calls)
            assert after - before in (4, 5)


async def test_the_least_busy_replica_is_asked(tmp_path: Path) -> None:
    async def slow(call: Call, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(1.0)
        writer.write(answer(chat_body()))

    async with (
        backend(slow) as one,
        backend() as two,
        door(tmp_path, one.url, settings={"replicas": [two.url]}) as gate,
    ):
        running = asyncio.create_task(asyncio.wait({asyncio.create_task(gate.chat())}))
        await asyncio.sleep(0.1)
        for _ in range(8):
            assert (await gate.chat()).status_code == 200
        assert len(one.calls) + len(two.calls) == 9
        assert min(len(one.calls), len(two.calls)) <= 1
        await running


async def test_the_fallback_answers_for_a_dead_upstream(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    async with backend() as other:
        more = {"other": {"base_url": other.url}}
        dead = f"http://127.0.0.1:{free_port()}/v1"
        settings = {"fallback": "other", "max_retries": 0}
        async with door(tmp_path, dead, more_upstreams=more, settings=settings) as gate:
            got = await gate.chat()
            assert got.status_code == 200
            assert got.headers["x-everlearn-arm"] == "champion"
            [event] = gate.completions()
            assert (event.upstream, event.fallback_from) == ("other", "champion")


async def test_a_fallback_with_a_model_of_its_own_counts_for_no_arm(tmp_path: Path) -> None:
    async with backend(says(answer(b"{}", 500))) as sick, backend() as other:
        more = {"other": {"base_url": other.url, "fallback_model": "gpt-x"}}
        settings = {"fallback": "other", "max_retries": 0}
        async with door(tmp_path, sick.url, more_upstreams=more, settings=settings) as gate:
            got = await gate.chat()
            assert got.json()["model"] == "gpt-x"
            [event] = gate.completions()
            assert (event.task, event.arm, event.version) == ("text2sql", None, None)


async def test_a_server_that_refuses_connections_is_waited_for_less_each_time(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    port = free_port()
    async with door(tmp_path, f"http://127.0.0.1:{port}/v1", settings={"max_retries": 9}) as gate:
        await gate.chat()
        started = time.monotonic()
        codes = {(await gate.chat()).status_code for _ in range(8)}
        assert (codes, time.monotonic() - started < 8) == ({502}, True)
        upstream = Backend(plain)
        await upstream.start(port)
        assert (await gate.chat()).status_code == 200
        await upstream.stop()


async def test_a_dead_upstream_is_skipped_where_another_may_answer(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    async with backend() as other:
        dead = f"http://127.0.0.1:{free_port()}/v1"
        more = {"other": {"base_url": other.url}}
        settings = {"fallback": "other", "max_retries": 0}
        async with door(tmp_path, dead, more_upstreams=more, settings=settings) as gate:
            assert [(await gate.chat()).status_code for _ in range(6)] == [200] * 6
            assert {event.fallback_from for event in gate.completions()} == {"champion"}


def ill(call: Call) -> bool:
    return any(one["content"] == "poison" for one in call.body.get("messages", ()))


async def _cut(call: Call, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def _cut_stream(call: Call, writer: asyncio.StreamWriter) -> None:
    writer.write(STREAM_HEAD + chunk(chat_chunk("SEL")))
    await writer.drain()
    writer.transport.abort()


@pytest.mark.parametrize(
    "fault",
    [
        *(says(answer(b'{"error": {"message": "bad prompt"}}', code)) for code in (500, 502, 503)),
        says(b"\0\0", then_cut=True), says(answer(b"{}")[:-1], then_cut=True), _cut, _cut_stream,
        nothing,
    ],
    ids=["500", "502", "503", "garbage", "cut body", "cut", "cut stream", "slow"],
)  # fmt: skip
async def test_what_one_request_meets_closes_no_door_for_the_others(
    tmp_path: Path, fault: Any
) -> None:
    async def some(call: Call, writer: asyncio.StreamWriter) -> None:
        await (fault if not call.path.endswith("models") and ill(call) else plain)(call, writer)

    seconds = {"answer_timeout_seconds": 0.3, "first_byte_timeout_seconds": 0.3}
    poison = [{"role": "user", "content": "poison"}]
    async with (
        backend(some) as upstream,
        door(tmp_path, upstream.url, settings={"max_retries": 0, **seconds}) as gate,
    ):
        for number in range(5):
            await gate.chat(messages=poison, stream=bool(number % 2))
            assert (await gate.chat()).status_code == 200
        together = [gate.chat(messages=poison) for _ in range(5)]
        failed = await asyncio.gather(*together)
        assert all(got.status_code != 200 or "upstream_error" in got.text for got in failed)
        got = await gate.chat()
        assert (got.status_code, got.json()["choices"][0]["finish_reason"]) == (200, "stop")


async def test_a_whole_answer_may_think_longer_than_a_stream_may_be_silent(tmp_path: Path) -> None:
    async def thinks(call: Call, writer: asyncio.StreamWriter) -> None:
        if call.body.get("stream"):
            writer.write(STREAM_HEAD)  # a head alone is no first byte of the body
        else:
            writer.write(answer(chat_body())[:60])
        await writer.drain()
        await asyncio.sleep(1.2)
        if not call.body.get("stream"):
            writer.write(answer(chat_body())[60:])

    settings = {"first_byte_timeout_seconds": 0.4, "chunk_timeout_seconds": 0.3}
    async with backend(thinks) as upstream, door(tmp_path, upstream.url, settings=settings) as gate:
        assert (await gate.chat()).content == chat_body()
        streamed = await gate.chat(stream=True)
        assert '"timeout"' in streamed.text
        assert [event.status for event in gate.completions()] == ["ok", "timeout"]


async def test_a_stream_may_be_silent_for_long_before_its_first_piece_only(tmp_path: Path) -> None:
    async def thinks(call: Call, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        await writer.drain()
        await asyncio.sleep(0.9)
        writer.write(chunk(chat_chunk("SEL")))
        await nothing(call, writer)

    settings = {"first_byte_timeout_seconds": 5, "chunk_timeout_seconds": 0.3}
    async with backend(thinks) as upstream, door(tmp_path, upstream.url, settings=settings) as gate:
        started = time.monotonic()
        got = await gate.chat(stream=True)
        assert ("SEL" in got.text, '"timeout"' in got.text) == (True, True)
        assert time.monotonic() - started < 3


async def test_retries_stay_a_share_of_the_requests(tmp_path: Path) -> None:
    async with backend(says(answer(b"{}", 503))) as upstream:
        more = [f"http://localhost:{upstream.port}/v1"]
        settings = {"max_retries": 5, "replicas": more}
        async with door(tmp_path, upstream.url, settings=settings) as gate:
            for _ in range(30):
                assert (await gate.chat()).status_code == 503
            assert len(upstream.calls) <= 30 + 10 + 30 * 0.2


async def test_kept_connections_that_went_stale_cost_nothing(tmp_path: Path) -> None:
    async def closes(call: Call, writer: asyncio.StreamWriter) -> None:
        await plain(call, writer)
        writer.close()

    async with (
        backend(closes) as upstream,
        door(tmp_path, upstream.url, settings={"max_retries": 0}) as gate,
    ):
        for _ in range(10):
            assert (await gate.chat()).status_code == 200
        assert upstream.connections >= 10


async def test_connections_are_kept(tmp_path: Path) -> None:
    async with backend() as upstream, door(tmp_path, upstream.url) as gate:
        for number in range(10):
            await gate.chat(stream=bool(number % 2))
        assert upstream.connections == 1


async def test_an_answer_without_a_length_ends_with_the_connection(tmp_path: Path) -> None:
    async def until_close(call: Call, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n" + chat_body())
        await writer.drain()
        writer.close()

    async with backend(until_close) as upstream, door(tmp_path, upstream.url) as gate:
        assert (await gate.chat()).content == chat_body()


async def test_an_interim_answer_is_not_the_answer(tmp_path: Path) -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
    async with (
        backend(says(interim, answer(chat_body()))) as upstream,
        door(tmp_path, upstream.url) as gate,
    ):
        got = await gate.chat()
        assert (got.status_code, got.content) == (200, chat_body())
        assert "link" not in got.headers


async def test_keys_stay_where_they_belong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("UPSTREAM_KEY", "sk-of-the-upstream")
    settings: dict[str, Any] = {"api_key_env": "UPSTREAM_KEY"}
    async with backend() as own, backend() as passed:
        more = {"other": {"base_url": passed.url}}
        async with door(tmp_path, own.url, settings=settings, more_upstreams=more) as gate:
            got = await gate.chat({"authorization": "Bearer sk-of-the-client"})
            assert got.status_code == 200
            assert _authorization(own) == "Bearer sk-of-the-upstream"
            own.reply = says(b"garbage", then_cut=True)
            failed = await gate.chat({"authorization": "Bearer sk-of-the-client"})
            seen = failed.text + caplog.text + "".join(map(repr, gate.events()))
            assert "sk-of" not in seen


def _authorization(upstream: Backend) -> str | None:
    return upstream.calls[0].headers.get("authorization")

"""A head that is looked up gives what parsing it again would give, and only plain messages are."""

import asyncio
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.channel import Answer, AnswerHead, Channel, UpstreamFailure
from gateway.heads import Heads, split
from tests.gateway.backend import Call, backend
from tests.gateway.door import CHAT, door
from tests.gateway.raw import post, wire

pytestmark = pytest.mark.anyio


def chat(text: str) -> bytes:
    return json.dumps({**CHAT, "messages": [{"role": "user", "content": text}]}).encode()


async def test_the_same_head_with_another_length_is_the_same_request(tmp_path: Path) -> None:
    async with backend() as upstream, door(tmp_path, upstream.url) as gate, wire(gate) as line:
        for number in range(1, 30):
            await line.send(post(chat("x" * number), "x-team: blue"))
            status, _, _ = await line.answer()
            assert status == 200
        assert [len(call.body["messages"][0]["content"]) for call in upstream.calls] == [
            *range(1, 30)
        ]
        assert {call.headers["x-team"] for call in upstream.calls} == {"blue"}
        sent = {
            tuple(sorted({**call.headers, "content-length": ""}.items())) for call in upstream.calls
        }
        assert len(sent) == 1
        assert len(gate.completions()) == 29


async def test_one_changed_byte_of_a_head_is_another_head(tmp_path: Path) -> None:
    async with backend() as upstream, door(tmp_path, upstream.url) as gate, wire(gate) as line:
        for unit in ("ann", "bob", "ann"):
            await line.send(post(chat("hi"), f"x-everlearn-unit: {unit}"))
            await line.answer()
        assert [event.unit for event in gate.completions()] == ["ann", "bob", "ann"]


@pytest.mark.parametrize(
    "bad",
    [
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n"
        b"content-length: 3\r\n\r\n{}x",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n"
        b"transfer-encoding: chunked\r\n\r\n{}",
    ],
)
async def test_smuggling_shapes_are_refused_however_often_they_come(
    tmp_path: Path, bad: bytes
) -> None:
    async with backend() as upstream, door(tmp_path, upstream.url) as gate:
        for _ in range(3):
            async with wire(gate) as line:
                await line.send(post(chat("hi")))
                assert (await line.answer())[0] == 200
                await line.send(bad)
                assert (await line.answer())[0] == 400
        assert len(upstream.calls) == 3


async def test_a_known_head_cut_anywhere_is_parsed(tmp_path: Path) -> None:
    async with backend() as upstream, door(tmp_path, upstream.url) as gate, wire(gate) as line:
        whole = post(chat("hi"))
        await line.send(whole)
        await line.answer()
        for cut in range(1, len(whole), 17):
            await line.send(whole[:cut])
            await asyncio.sleep(0.005)
            await line.send(whole[cut:])
            assert (await line.answer())[0] == 200
        await line.send(whole + whole)  # pipelined
        assert (await line.answer())[0] == (await line.answer())[0] == 200


NAMES = st.sampled_from(
    ["x-a", "X-Content-Length", "content-lengthy", "Content-Length", "content-length"]
)
VALUES = st.integers(0, 12).map(str) | st.text("ab 1:", max_size=6).map(str.strip)


@given(st.lists(st.tuples(NAMES, VALUES), max_size=5), st.binary(max_size=12))
def test_a_message_is_cut_into_its_head_and_a_body_of_the_length_it_names(
    headers: list[tuple[str, str]], body: bytes
) -> None:
    head = "\r\n".join(["POST / HTTP/1.1", *(": ".join(pair) for pair in headers)]).encode()
    data = head + b"\r\n\r\n" + body
    cut = split(data)
    if cut is None:
        return
    assert data[cut.start :] == body
    assert cut.length == len(body)
    missing = len(head) - len(cut.key)
    assert any(
        cut.key == head[:at] + head[at + missing :] and int(head[at : at + missing]) == len(body)
        for at in range(len(head))
        if head[at : at + missing].isdigit()
    )


class _Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None: ...

    def close(self) -> None: ...


class _Kept:
    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.framed: list[bytes | None] = []
        self.over: UpstreamFailure | bool = False

    def piece(self, data: bytes, framed: bytes | None = None) -> None:
        self.pieces.append(data)
        self.framed.append(framed)

    def ended(self) -> None:
        self.over = True

    def failed(self, failure: UpstreamFailure) -> None:
        self.over = failure


async def streamed(segments: list[bytes]) -> _Kept:
    """What a channel makes of an event stream that comes in these segments."""
    channel = Channel(lambda _: None, lambda _: None, Heads[AnswerHead]())
    channel.connection_made(_Transport())
    kept = _Kept()

    def done(outcome: Answer | UpstreamFailure) -> None:
        assert isinstance(outcome, Answer)
        assert outcome.channel is channel

    channel.send(b"", 5, 5, done)
    channel.data_received(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    channel.stream_to(kept)
    for segment in segments:
        if kept.over is False:
            channel.data_received(segment)
    return kept


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def test_a_chunk_in_a_segment_of_its_own_is_handed_on_as_it_is() -> None:
    events = [b"data: %d\n\n" % number for number in range(5)]
    kept = await streamed([*map(chunk, events), b"0\r\n\r\n"])
    assert kept.pieces == events
    assert kept.framed == [*map(chunk, events)]
    assert kept.over is True


@pytest.mark.parametrize(
    "bad", [b"0x4\r\nabcd\r\n", b"+4\r\nabcd\r\n", b"4 \r\nabc\r\n", b"zz\r\nab\r\n", b"-1\r\n\r\n"]
)
async def test_a_chunk_that_is_none_is_never_handed_on(bad: bytes) -> None:
    kept = await streamed([chunk(b"data: 1\n\n"), bad])
    assert kept.pieces[0] == b"data: 1\n\n"
    assert bad not in kept.framed


async def test_however_chunks_are_cut_the_bytes_are_the_same() -> None:
    text = [b"data: a\n\n", b"data: \r\n4\r\nabcd\r\n\n", b"x" * 300, b"data: [DONE]\n\n"]
    raw = b"".join(map(chunk, text)) + b"0\r\n\r\n"
    for size in range(1, 40):
        kept = await streamed([raw[at : at + size] for at in range(0, len(raw), size)])
        assert b"".join(kept.pieces) == b"".join(text)
        assert kept.over is True


async def test_a_stream_comes_through_chunk_by_chunk(tmp_path: Path) -> None:
    events = [b'data: {"n": %d}\n\n' % number for number in range(20)] + [b"data: [DONE]\n\n"]

    async def reply(call: Call, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        for event in events:
            writer.write(chunk(event))
            await writer.drain()
            await asyncio.sleep(0.002)
        writer.write(b"0\r\n\r\n")

    async with backend(reply) as upstream, door(tmp_path, upstream.url) as gate:
        for _ in range(2):
            got = await gate.chat(stream=True)
            assert got.content == b"".join(events)
        assert [event.response for event in gate.completions()] == [b"".join(events)] * 2

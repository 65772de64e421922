"""Chunks that are passed on unparsed: whatever the segments, the client gets what was sent."""

import random
from typing import Any

import httptools
import pytest

from gateway.http.channel import Answer, Channel
from gateway.http.client import Client
from gateway.http.heads import Heads
from gateway.http.stream import Relay
from gateway.http.wire import chunk_start
from tests.gateway.backend import STREAM_HEAD, chat_chunk, chunk, event

pytestmark = pytest.mark.anyio
SEED = 20_261_121
DONE = b"data: [DONE]\n\n"
END = b"0\r\n\r\n"


class Taker(Client):
    """A client of HTTP/1.1 that keeps what it is sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.passed: list[bytes] = []
        self.flow = None

    def write(self, piece: bytes) -> None:
        self.sent.append(chunk(piece))

    def passing(self) -> Any:
        def take(data: bytes) -> None:
            self.passed.append(data)
            self.sent.append(data)

        return take

    def flush(self) -> None:
        pass

    def end(self, piece: bytes = b"") -> None:
        self.sent.append((chunk(piece) if piece else b"") + END)


class Line:
    """The transport of a channel."""

    def __init__(self, channel: Channel) -> None:
        self.protocol: Any = channel
        self.closed = False
        channel.connection_made(self)  # type: ignore[arg-type]

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def write(self, data: bytes) -> None:
        pass

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True


class Run:
    """One streamed answer, from the upstream's segments to the client's bytes."""

    def __init__(self) -> None:
        self.client = Taker()
        self.recorded: list[tuple[str, bytes, str | None]] = []
        self.before_end = b""
        self.done = False
        self.settled = 0
        self.channel = Channel(self._settled, lambda _: None, Heads(), 0)
        self.line = Line(self.channel)
        self.channel.send(b"?", 10, 10, self._came)

    def _settled(self, channel: Channel) -> None:
        self.settled += 1

    def _came(self, outcome: Any) -> None:
        assert isinstance(outcome, Answer)
        self.channel.stream_to(
            Relay(self.client, self.channel, record=self._record, first=lambda: None, done=self._ok)
        )

    def _ok(self) -> None:
        self.done = True

    def _record(self, outcome: Any, response: bytes, error: str | None, then: Any) -> None:
        self.recorded.append((outcome, response, error))
        self.before_end = b"".join(self.client.sent)
        then()

    def feed(self, *segments: bytes) -> "Run":
        for segment in segments:
            self.line.protocol.data_received(segment)
        return self

    @property
    def body(self) -> bytes:
        """What the client makes of it, by a parser that takes nothing but HTTP/1.1."""
        return _body(STREAM_HEAD + b"".join(self.client.sent))


def _body(answer: bytes) -> bytes:
    class Reader:
        body = b""
        whole = False

        def on_body(self, data: bytes) -> None:
            self.body += data

        def on_message_complete(self) -> None:
            self.whole = True

    reader = Reader()
    httptools.HttpResponseParser(reader).feed_data(answer)
    assert reader.whole
    return reader.body


async def test_one_event_in_one_chunk_in_one_segment_is_passed_as_it_is() -> None:
    events = [chat_chunk(f"größe {number}" * number) for number in range(1, 40)]
    run = Run().feed(STREAM_HEAD + chunk(events[0]), *map(chunk, events[1:]), chunk(DONE), END)
    assert run.client.passed == [chunk(one) for one in events[1:]]
    assert run.body == b"".join((*events, DONE))
    assert run.recorded == [("ok", b"".join((*events, DONE)), None)]
    assert DONE not in run.before_end
    assert (run.done, run.settled) == (True, 1)


UNLIKE: dict[str, bytes] = {
    "an error": event({"error": {"message": "boom"}}),
    "an end": DONE,
    "an end after an event": chat_chunk("a") + DONE,
    "an end after carriage returns": chat_chunk("a")[:-2] + b"\r\r" + DONE,
    "an end after one carriage return": b'data: {"a": 1}\rdata: [DONE]\n\n',
    "a named end": b'event: response.completed\ndata: {"a": 1}\n\n',
    "a named event": b'event: response.delta\ndata: {"a": 1}\n\n',
    "two events": chat_chunk("a") + chat_chunk("b"),
    "half a line": chat_chunk("a")[:-1],
    "a comment": b": keep-alive\n\n",
    "no object": b"data: 1\n\n",
    "lines that end in both": b'data: {"a": 1}\r\n\r\n',
}


@pytest.mark.parametrize("what", UNLIKE)
async def test_any_other_chunk_is_parsed(what: str) -> None:
    text = chat_chunk("x")
    run = Run().feed(STREAM_HEAD + chunk(text), chunk(UNLIKE[what]))
    assert run.client.passed == []
    run.feed(chunk(b"\n\n" + text), chunk(text), chunk(DONE), END)
    assert run.body == text + UNLIKE[what] + b"\n\n" + text + text + DONE
    assert run.recorded[0][0] == ("upstream_error" if what == "an error" else "ok")
    assert run.before_end == b"" or DONE not in run.before_end


@pytest.mark.parametrize(
    "segment",
    [
        b"5\r\n" + chat_chunk("a") + b"\r\n",
        b"-5\r\n" + chat_chunk("a") + b"\r\n",
        b"xyz\r\n\r\n",
        b'6\r\ndata: {"\n\n\r\n',
        b'8\r\ndata: {"\n\n\r\n',
        b"\r\n" + chunk(chat_chunk("a")),
    ],
)
async def test_a_chunk_that_is_none_is_an_error_of_the_upstream(segment: bytes) -> None:
    run = Run().feed(STREAM_HEAD + chunk(chat_chunk("x")), chunk(chat_chunk("y")), segment)
    assert run.recorded[0][0] == "upstream_error"
    assert run.line.closed
    assert run.body.startswith(chat_chunk("x") + chat_chunk("y"))
    assert b'"type":"upstream_error"' in run.body.replace(b" ", b"")


async def test_a_chunk_whose_length_is_cut_is_parsed() -> None:
    """Its second half looks like a whole chunk, and is none: 0xa5 instead of 0x1a5 bytes."""
    part = b'data: {"a": "' + b"x" * (0xA5 - 17) + b'"}\n\n'
    text = part + b"\r\n: " + b"y" * (0x1A5 - len(part) - 6) + b"\n\n"
    whole = chunk(text)
    assert whole[1:].startswith(chunk(part))
    cut = 1 + len(chunk(part))
    run = Run().feed(STREAM_HEAD + chunk(chat_chunk("x")) + whole[:1], whole[1:cut], whole[cut:])
    run.feed(chunk(DONE), END)
    assert run.body == chat_chunk("x") + text + DONE


@pytest.mark.parametrize("sizes", ["%x", "%X", "%08x", "%x;name=value"])
async def test_however_chunks_are_cut_the_body_is_the_same(sizes: str) -> None:
    chance, passed = random.Random(SEED), 0
    for _ in range(150):
        texts = [chat_chunk("ä" * chance.randrange(1, 90)) for _ in range(12)]
        texts += chance.sample([UNLIKE[what] for what in UNLIKE if " end" not in what], 4)
        chance.shuffle(texts)
        texts.append(DONE)
        framed = [b"%b\r\n%b\r\n" % ((sizes % len(one)).encode(), one) for one in texts]
        segments = [STREAM_HEAD]
        for frame in (*framed, END):
            cut = chance.randrange(1, len(frame)) if chance.random() < 0.3 else len(frame)
            if chance.random() < 0.2:
                segments[-1] += frame[:cut]
            else:
                segments.append(frame[:cut])
            if cut < len(frame):
                segments.append(frame[cut:])
        run = Run().feed(*segments)
        assert run.body == b"".join(texts)
        [(_, response, _)] = run.recorded
        assert response.rstrip(b"\n") == b"".join(texts).rstrip(b"\n")
        assert (run.done, run.settled, run.channel.busy) == (True, 1, False)
        assert run.line.protocol is run.channel
        passed += len(run.client.passed)
    assert (passed > 300) == (sizes == "%x")


@pytest.mark.parametrize("size", [1, 9, 10, 15, 16, 17, 255, 256, 4095, 4096, 65_535, 65_536])
def test_the_start_of_a_chunk_follows_from_its_length(size: int) -> None:
    whole = chunk(b"a" * size)
    assert whole.startswith(chunk_start(len(whole)))
    assert not whole[:-1].startswith(chunk_start(len(whole) - 1))
    assert not (whole + b"a").startswith(chunk_start(len(whole) + 1))
    assert not END.startswith(chunk_start(len(END)))


async def test_passing_counts_as_hearing_from_the_upstream() -> None:
    run = Run().feed(STREAM_HEAD + chunk(chat_chunk("x")))
    now = run.channel._now()
    run.channel.sweep(now)
    for turn in range(5):
        run.feed(chunk(chat_chunk("y")))
        run.channel.sweep(now + 8 * turn)
        assert run.recorded == []
    run.channel.sweep(now + 100)
    assert run.recorded[0][0] == "timeout"

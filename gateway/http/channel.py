"""One keep-alive HTTP/1.1 connection to an upstream.

Only what a gateway needs of a client: one request at a time, answers collected whole, server-sent
events handed on as they arrive. The heads of whole answers are looked up (`heads.py`).
"""

import asyncio
from collections.abc import Callable
from typing import Literal, Protocol, cast

import httptools

from gateway.http.heads import Heads
from gateway.http.wire import NOT_TO_CLIENT, Headers, header, header_lines

Kind = Literal["connect", "reset", "timeout", "garbage", "unavailable"]
NEVER = float("inf")


class UpstreamFailure(Exception):
    """The upstream gave no whole answer."""

    def __init__(self, kind: Kind, message: str, *, stale: bool = False) -> None:
        super().__init__(message)
        self.kind = kind
        self.stale = stale
        """A kept connection was closed before it gave a byte: not the upstream's failure."""


class Sink(Protocol):
    """Where the pieces of a streamed answer go; called from the event loop, must not block."""

    def piece(self, data: bytes) -> None:
        """Bytes of the body, as they arrived."""
        ...

    def passing(self, channel: "Channel") -> "Passing | None":
        """What may take the next segment, which begins a chunk, unparsed; None: it is parsed."""
        ...

    def flush(self) -> None:
        """No piece has come yet, or all that had come have been handed on."""
        ...

    def ended(self) -> None:
        """The body is whole."""
        ...

    def failed(self, failure: UpstreamFailure) -> None:
        """The body will not be whole."""
        ...


class Passing(asyncio.Protocol):
    """Takes the bytes of a connection instead of its channel, from the begin of a chunk on, and
    gives those that are not for it back (`Channel.take_back`)."""

    __slots__ = ("heard",)

    def __init__(self) -> None:
        self.heard = True
        """Something has come since the last sweep."""


class AnswerHead:
    """Status and headers of an answer; shared by all answers that carry the same."""

    __slots__ = ("encoded", "headers", "lines", "status")

    def __init__(self, status: int, headers: Headers) -> None:
        self.status = status
        self.headers = headers
        self.lines = header_lines(headers, NOT_TO_CLIENT)
        """Header lines for the client."""
        self.encoded = header(headers, b"content-encoding") not in (None, b"identity")
        """Compressed, though it was asked not to be: nothing can be read or added on the way."""


class Answer:
    """An upstream's answer: whole, or a stream to be read by `stream_to`."""

    __slots__ = ("body", "channel", "head", "status")

    def __init__(self, head: AnswerHead, body: bytes, channel: "Channel | None" = None) -> None:
        self.head = head
        self.status = head.status
        self.body = body
        self.channel = channel
        """Set while the body is still to come."""


Done = Callable[[Answer | UpstreamFailure], None]


class Channel(asyncio.Protocol):
    """One connection; `settled` is called once after every exchange, whatever became of it."""

    def __init__(
        self,
        settled: Callable[["Channel"], None],
        lost: Callable[["Channel"], None],
        heads: Heads[AnswerHead],
        replica: int,
    ) -> None:
        self._settled = settled
        self._lost = lost
        self._heads = heads
        self.replica = replica
        """Index of the replica it leads to."""
        self._now = asyncio.get_running_loop().time
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._done: Done | None = None
        """Told the answer, or why there is none; None: it has been told."""
        self._sink: Sink | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._head: AnswerHead | None = None
        """Of the answer being parsed."""
        self._pieces: list[bytes] = []
        self._streaming = False
        self._complete = False
        self._until_close = False
        self._heard = False
        self._alive = False
        """Something has come since the last sweep."""
        self._between = False
        """All chunks so far are whole."""
        self._passing: Passing | None = None
        """Takes the answer's bytes instead."""
        self._stays = False
        self._paused = False
        self._failure: UpstreamFailure | None = None
        """Of a stream that failed before anybody read it."""
        self._uses = 0
        self._gap_seconds = 60.0
        self.busy = False
        self._deadline = NEVER

    @property
    def closed(self) -> bool:
        """Not to be used again."""
        return self._transport is None or self._transport.is_closing()

    def send(
        self, payload: bytes, first_byte_seconds: float, gap_seconds: float, done: Done
    ) -> None:
        """Send a request; `done` is called once, unless the channel is aborted before."""
        assert self._transport is not None
        self.busy, self._uses = True, self._uses + 1
        self._heard = self._alive = self._complete = self._until_close = False
        self._gap_seconds, self._done = gap_seconds, done
        self._deadline = self._now() + first_byte_seconds
        self._transport.write(payload)

    def stream_to(self, sink: Sink) -> None:
        """Hand the body of a streamed answer to `sink`, what has arrived already first."""
        self._sink = sink
        pieces, self._pieces = self._pieces, []
        if pieces:
            sink.piece(b"".join(pieces))
        sink.flush()
        if self._failure is not None:
            sink.failed(self._failure)
        elif self._complete:
            self._finish()

    def pause(self) -> None:
        """Read no more for now: who takes the pieces is slower than who sends them."""
        if self._transport is not None:
            self._transport.pause_reading()
            self._paused, self._deadline = True, NEVER

    def resume(self) -> None:
        """Read on."""
        if self._transport is not None:
            self._transport.resume_reading()
            self._paused, self._deadline = False, self._now() + self._gap_seconds

    def abort(self) -> None:
        """Close at once; the upstream sees that nobody waits for its answer."""
        self._done = self._sink = None
        if self._transport is not None:
            self._transport.abort()
        self._settle()

    def sweep(self, now: float) -> None:
        """To be called now and then: fail if the deadline has passed, set the next one if something
        has come since."""
        passing = self._passing
        if self._streaming and (self._alive or (passing is not None and passing.heard)):
            self._alive = False
            if passing is not None:
                passing.heard = False
            if self._deadline is not NEVER:
                self._deadline = now + self._gap_seconds
        elif self._deadline < now:
            what = "no further chunk" if self._heard and self._streaming else "no answer"
            self._fail(UpstreamFailure("timeout", f"{what} from the upstream in time"))

    def take_back(self, data: bytes) -> None:
        """Parse on, from the begin of a chunk: the bytes are not for `Passing`."""
        self._passing = None
        if self._transport is not None:
            self._transport.set_protocol(self)
            self.data_received(data)

    # The transport's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self.busy and self._until_close and error is None and not self._complete:
            self._complete = True
            self._arrived()
        elif self.busy and not self._complete:
            what = "in the middle of its answer" if self._heard else "before it answered"
            stale = self._uses > 1 and not self._heard
            self._fail(
                UpstreamFailure("reset", f"the upstream closed the connection {what}", stale=stale)
            )
        self._lost(self)

    def data_received(self, data: bytes) -> None:
        if not self.busy:
            # Bytes nobody asked for: whatever they are, they are not the next answer.
            self.abort()
        elif self._heard or not self._seen_before(data):
            self._parse(data)

    def _seen_before(self, data: bytes) -> bool:
        """Take a whole answer whose head is known; False if it must be parsed."""
        found = self._heads.find(data)
        if found is None:
            return False
        done, self._done = self._done, None
        self._settle()
        if done is not None:
            done(Answer(found[0], found[1]))
        return True

    def _parse(self, data: bytes) -> None:
        first, self._heard = not self._heard, True
        self._between = False
        if first:
            self._headers, self._pieces, self._head, self._failure = [], [], None, None
            self._streaming = False
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if not self._complete:
                self._fail(UpstreamFailure("garbage", "the upstream's answer is not HTTP/1.1"))
                return
            # What follows the answer is none: no head is learned from it, and nothing more is read.
            self._stays = False
            if self._transport is not None:
                self._transport.close()
        if self._streaming and self._done is not None and self._head is not None:
            done, self._done = self._done, None
            done(Answer(self._head, b"", self))
        elif self._complete:
            if first and self._stays and not self._streaming and self._head is not None:
                self._heads.learn(data, sum(map(len, self._pieces)), self._head)
            self._arrived()
        # Of the first bytes of a chunk's head no callback tells.
        if self._between and self._sink is not None and data.endswith(b"\r\n"):
            self._pass()

    # The parser's side.

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            return
        self._head = AnswerHead(status, self._headers)
        self._stays = self._parser.should_keep_alive()
        kind = header(self._headers, b"content-type") or b""
        self._streaming = kind[:17].lower() == b"text/event-stream"
        self._until_close = (
            header(self._headers, b"content-length") is None
            and header(self._headers, b"transfer-encoding") is None
        )

    def on_body(self, data: bytes) -> None:
        # A head alone promises nothing: the first piece may take as long as a first byte may.
        self._alive = True
        if self._sink is not None:
            self._sink.piece(data)
        else:
            self._pieces.append(data)

    def on_chunk_header(self) -> None:
        self._between = False

    def on_chunk_complete(self) -> None:
        self._between = True

    def on_message_complete(self) -> None:
        self._between = False
        if self._parser.get_status_code() < 200:
            self._headers = []
            return
        self._complete = True

    # Inside.

    def _pass(self) -> None:
        assert self._sink is not None
        self._passing = self._sink.passing(self)
        if self._passing is not None and self._transport is not None:
            self._transport.set_protocol(self._passing)

    def _arrived(self) -> None:
        """All of the answer has come."""
        if not self._streaming:
            done, self._done = self._done, None
            pieces, head = self._pieces, self._head
            self._finish()
            if done is not None and head is not None:
                done(Answer(head, pieces[0] if len(pieces) == 1 else b"".join(pieces)))
        elif self._sink is not None:
            self._finish()

    def _finish(self) -> None:
        sink, self._sink = self._sink, None
        if self._transport is not None and not self._stays:
            self._transport.close()
        self._settle()
        if sink is not None:
            sink.ended()

    def _fail(self, failure: UpstreamFailure) -> None:
        done, sink = self._done, self._sink
        self._done = self._sink = None
        if self._transport is not None:
            self._transport.abort()
        self._settle()
        if done is not None:
            done(failure)
        elif sink is not None:
            sink.failed(failure)
        else:
            self._failure = failure

    def _settle(self) -> None:
        if self.busy:
            if self._paused:
                self.resume()
            self.busy, self._deadline = False, NEVER
            self._settled(self)

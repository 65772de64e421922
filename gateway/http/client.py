"""One connection of a client: HTTP/1.1 parsing, limits, timeouts, pipelining.

Written on asyncio's protocols because a framework's cost per request and per streamed chunk is
several times that of the work done here.

- A request reaches the handler whole; its head and body are bounded in bytes and in time.
- A head seen before is looked up instead of parsed (`heads.py`).
- Pipelined requests are answered one after the other, in order.
- What cannot be parsed is answered 400 and the connection closed, so that nothing is smuggled.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, cast

import httptools

from everlearn.process_log import about
from gateway.http.encoding import plain
from gateway.http.heads import Head, Heads, Request
from gateway.http.wire import UPGRADE, Refusal, header_lines, status_line

log = logging.getLogger(__name__)

Work = Coroutine[Any, Any, bool | None]
"""Answers a request; True: callbacks go on with the answer, and end in `Client.finished`."""

MAX_PIPELINED = 16
LINGER_SECONDS = 3.0
"""How long what a refused client still sends is read and thrown away before the close: a close
with unread bytes would reset the connection and lose the answer."""


_NO_HEAD = Head()
_NOT_PLAIN = frozenset({b"expect", b"transfer-encoding", b"upgrade", b"content-encoding"})


@dataclass(frozen=True)
class Limits:
    """What one connection may take, in bytes and seconds."""

    body_bytes: int = 16 * 2**20
    head_bytes: int = 32 * 2**10
    head_seconds: float = 15.0
    """From the first byte of a head to its end."""
    body_seconds: float = 300.0
    body_gap_seconds: float = 30.0
    """Between two segments of a body."""
    send_seconds: float = 120.0
    """For a client that does not read what it asked for."""
    idle_seconds: float = 75.0
    """Between two requests."""


class Handler(Protocol):
    """What answers requests."""

    def early(self, request: Request) -> Refusal | None:
        """Refuse a request by its head, before its body is read."""
        ...

    def lines(self, head: Head) -> bytes:
        """Header lines that go with every answer to a request with that head."""
        ...

    def handle(self, request: Request, client: "Client") -> Work | None:
        """Answer through `client`: by a coroutine, cancelled when the client goes away, or (None)
        by callbacks, which end in `client.run` or `client.finished` and hear of a client that
        goes away through `client.left`."""
        ...

    def refuse(self, request: Request, refusal: Refusal, client: "Client") -> None:
        """Note a refusal that was decided before `handle`, send it, end in `client.finished`."""
        ...


class Listener(Handler, Protocol):
    """What a connection asks of the server that accepted it."""

    clients: set["Client"]
    draining: bool
    heads: Heads[Head]
    limits: Limits
    loop: asyncio.AbstractEventLoop
    now: Callable[[], float]
    """Seconds, of the loop's clock."""


class Client(asyncio.Protocol):
    """One connection of a client."""

    def __init__(self, server: Listener) -> None:
        self._server = server
        self._limits = server.limits
        self._body_limit = server.limits.body_bytes
        self._handle = server.handle
        self._heads = server.heads
        self._parser: httptools.HttpRequestParser | None = None
        """Made for the first head that must be parsed."""
        self._transport: asyncio.Transport | None = None
        self._request: Request | None = None
        self._head = _NO_HEAD
        """Of the request being parsed."""
        self._url = b""
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._head_bytes = 0
        """Received since the last request's end."""
        self._size = 0
        """Of the head as parsed."""
        self._announced = 0
        """Length of the body by its header."""
        self._in_head = True
        self._body_until = 0.0
        self._waiting: list[Request] = []
        self._current: Request | None = None
        self.task: asyncio.Task[None] | None = None
        """Answers the current request."""
        self._discarding = False
        self._chunked = False
        self._encoding = b""
        """Of the body of the request being parsed."""
        self._unsent = b""
        """Head of a streamed answer that waits for its first piece."""
        self._plain = False
        """The request being parsed may be looked up next time."""
        self.deadline = server.now() + self._limits.head_seconds
        self.flow: Callable[[bool], None] | None = None
        """Told False when the client cannot take more for now, True when it can again."""
        self.left: Callable[[], None] | None = None
        """Called when the client goes away while callbacks answer it."""

    # The transport's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._server.clients.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._server.clients.discard(self)
        self._transport = None
        self._waiting.clear()
        if self.task is not None:
            # A turn later, so that it has begun: one cancelled before that could not tidy up.
            self._server.loop.call_soon(self.task.cancel)
        elif self.left is not None:
            self.left()

    def data_received(self, data: bytes) -> None:
        if self._discarding:
            return
        fresh = self._in_head and self._request is None and self._head_bytes == 0
        if fresh and self._current is None:
            found = self._heads.find(data)
            if found is not None and len(found[1]) <= self._body_limit:
                request = Request(found[0])
                request.body = found[1]
                request.refusal = self._server.early(request)
                self._begin(request)
                return
        if self._in_head:
            self._head_bytes += len(data)
        if self._parser is None:
            self._parser = httptools.HttpRequestParser(self)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._without_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError:
            self._refuse_now(Refusal(400, "The request is not valid HTTP/1.1."))
            return
        if self._in_head and self._head_bytes > self._limits.head_bytes:
            self._refuse_now(Refusal(431, "The request's headers are too large."))
        elif not self._in_head:
            self.deadline = min(self._body_until, self._server.now() + self._gap)
        elif fresh and self._plain:
            self._heads.learn(data, self._announced, self._head)

    def pause_writing(self) -> None:
        self.deadline = self._server.now() + self._limits.send_seconds
        if self.flow is not None:
            self.flow(False)

    def resume_writing(self) -> None:
        if self._current is not None:
            self.deadline = float("inf")
        if self.flow is not None:
            self.flow(True)

    # The parser's side.

    def on_message_begin(self) -> None:
        self._head = Head()
        self._request = Request(self._head)
        self._url, self._body, self._body_bytes, self._size = b"", [], 0, 0
        self._announced = 0
        self._in_head = True
        self._plain = False
        if self._current is None:
            self.deadline = self._server.now() + self._limits.head_seconds

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._size += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._size += len(name) + len(value)
        name = name.lower()
        if name == b"content-length":
            # Kept apart: all other headers of a connection's requests are mostly the same.
            self._announced = int(value)
        else:
            self._head.headers.append((name, value))

    def on_headers_complete(self) -> None:
        request, parser = self._request, self._parser
        assert request is not None
        assert parser is not None
        if parser.should_upgrade():
            return
        self._in_head, self._head_bytes = False, 0
        head = self._head
        head.method = parser.get_method()
        head.path, _, head.query = self._url.partition(b"?")
        head.http10 = parser.get_http_version() == "1.0"
        head.keep_alive = request.keep_alive = parser.should_keep_alive()
        self._body_until = self._server.now() + self._limits.body_seconds
        head.known = known = dict(head.headers)
        head.lines = self._server.lines(head)
        self._plain = not known.keys() & _NOT_PLAIN
        # What is made of the body says nothing of how it came.
        self._encoding = known.pop(b"content-encoding", b"")
        if self._encoding:
            head.headers = [each for each in head.headers if each[0] != b"content-encoding"]
        if self._size > self._limits.head_bytes:
            self._refuse_now(Refusal(431, "The request's headers are too large."))
            return
        if self._announced > self._body_limit:
            self._refuse_now(self._too_large())
            return
        request.refusal = self._server.early(request)
        if b"expect" in known and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        self._body_bytes += len(data)
        if self._body_bytes > self._body_limit:
            self._refuse_now(self._too_large())
        elif self._request is not None and self._request.refusal is None:
            self._body.append(data)

    def on_message_complete(self) -> None:
        request = self._request
        if request is None or self._discarding:
            return
        assert self._parser is not None
        if self._parser.should_upgrade():
            return
        request.body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        if self._encoding and request.refusal is None:
            try:
                request.body = plain(request.body, self._encoding, self._body_limit)
            except Refusal as refusal:
                request.refusal = refusal
        self._request, self._body, self._in_head = None, [], True
        if self._current is None:
            self._begin(request)
            return
        self._waiting.append(request)
        if len(self._waiting) >= MAX_PIPELINED and self._transport is not None:
            self._transport.pause_reading()

    # The handler's side.

    @property
    def gone(self) -> bool:
        """The client is no longer there."""
        return self._transport is None

    def respond(self, status: int, lines: bytes, body: bytes) -> None:
        """The whole answer; `lines` are complete header lines without a length."""
        request = self._current
        if self._transport is None or request is None:
            return
        close = b"" if self._stays(request) else b"connection: close\r\n"
        if request.head.http10 and not close:
            close = b"connection: keep-alive\r\n"
        length = b"content-length: %d\r\n\r\n" % len(body)
        parts = (status_line(status), lines, request.head.lines, close, length)
        if request.head.method == b"HEAD":
            body = b""
        if len(body) < 65_536:
            self._transport.write(b"".join((*parts, body)))
        else:
            self._transport.writelines((*parts, body))

    def start(self, status: int, lines: bytes) -> None:
        """The head of a streamed answer, sent with its first piece or by `flush`."""
        request = self._current
        if self._transport is None or request is None:
            return
        self._chunked = not request.head.http10
        if request.head.http10:
            request.keep_alive = False
        more = request.head.lines
        more += b"transfer-encoding: chunked\r\n" if self._chunked else b""
        if not self._stays(request):
            more += b"connection: close\r\n"
        self._unsent = b"%b%b%b\r\n" % (status_line(status), lines, more)

    def flush(self) -> None:
        """Send the head of a streamed answer, if it still waits for a piece."""
        head, self._unsent = self._unsent, b""
        if head and self._transport is not None:
            self._transport.write(head)

    def write(self, piece: bytes) -> None:
        """A piece of a streamed answer, sent at once."""
        if self._transport is not None:
            if self._chunked:
                piece = b"%x\r\n%b\r\n" % (len(piece), piece)
            self._transport.write(self._unsent + piece)
            self._unsent = b""

    def passing(self) -> Callable[[bytes], None] | None:
        """Sends pieces that are chunks already; None if the answer is not chunked."""
        return self._transport.write if self._chunked and self._transport is not None else None

    def end(self, piece: bytes = b"") -> None:
        """The last piece and the end of a streamed answer."""
        if self._transport is None:
            return
        if self._chunked:
            piece = b"%x\r\n%b\r\n0\r\n\r\n" % (len(piece), piece) if piece else b"0\r\n\r\n"
        self._transport.write(self._unsent + piece)
        self._unsent = b""

    def cut(self) -> None:
        """End a streamed answer so that the client sees that it is not whole."""
        if self._transport is not None:
            self._transport.abort()

    def run(self, work: Work) -> None:
        """Answer the current request in a task."""
        self.task = self._server.loop.create_task(self._run(work))

    def go_on(self, left: Callable[[], None]) -> None:
        """Callbacks answer the current request from now on; `left` is called if the client goes
        away."""
        self.task, self.left = None, left

    def failed(self) -> None:
        """An error of ours, in an `except` clause: one request's error is not the others'."""
        known = self._current.head.known if self._current else {}
        name = known.get(b"x-request-id", b"").decode("utf-8", "replace")
        log.exception("request failed in the gateway", extra=about(None, name))
        self.abort()
        self.finished()

    def finished(self) -> None:
        """The current request is answered: go on with the next."""
        request, self._current = self._current, None
        self.task = self.flow = self.left = None
        if self._transport is not None and request is not None:
            self._next(request)

    # Life cycle.

    def expired(self) -> None:
        """The deadline has passed: of an idle connection, a head, a body or a linger."""
        if self._transport is None:
            return
        if self._transport.get_write_buffer_size() > 0:
            self._transport.abort()
        elif self._discarding or (self._request is None and self._head_bytes == 0):
            self._transport.close()
        else:
            self._refuse_now(Refusal(408, "The request took too long to arrive."))

    def drain(self) -> None:
        """Close now if idle, else after the request in flight."""
        if self._current is None and self._request is None and self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once, whatever is in flight."""
        if self._transport is not None:
            self._transport.abort()

    @property
    def _gap(self) -> float:
        return self._limits.body_gap_seconds

    def _stays(self, request: Request) -> bool:
        return request.keep_alive and not self._server.draining and not self._discarding

    def _too_large(self) -> Refusal:
        limit = self._body_limit
        return Refusal(413, f"The request's body is larger than {limit} bytes.", "body_too_large")

    def _begin(self, request: Request) -> None:
        self._current = request
        self.deadline = float("inf")
        self._chunked = False
        try:
            if request.refusal is not None:
                self._server.refuse(request, request.refusal, self)
                return
            work = self._handle(request, self)
            if work is not None:
                self.run(work)
        except Exception:  # logged; one request's error is not the others'
            self.failed()

    async def _run(self, work: Work) -> None:
        try:
            goes_on = await work
        except asyncio.CancelledError:
            self.abort()
            self.finished()
        except Exception:  # logged; one request's error is not the others'
            self.failed()
        else:
            if not goes_on:
                self.finished()

    def _next(self, request: Request) -> None:
        """After an answer: close, take the next pipelined request, or wait for one."""
        assert self._transport is not None
        if not self._stays(request):
            self._linger()
        elif self._waiting:
            self._begin(self._waiting.pop(0))
            with contextlib.suppress(RuntimeError):
                self._transport.resume_reading()
        else:
            # A head or body may already be on its way.
            seconds = self._limits.head_seconds if self._request else self._limits.idle_seconds
            self.deadline = self._server.now() + seconds

    def _without_upgrade(self, rest: bytes) -> None:
        """Upgrades are not offered: parse the request again as if none had been asked for. The
        parser takes what follows an upgrade's head for another protocol; Java's client asks for
        h2c with every first request and sends a body."""
        request, parser = self._request, self._parser
        assert parser is not None
        method = parser.get_method()
        if request is None or method == b"CONNECT":
            self._refuse_now(Refusal(400, "CONNECT is not offered."))
            return
        self._parser = httptools.HttpRequestParser(self)
        lines = header_lines(request.headers, UPGRADE)
        if self._announced:
            lines += b"content-length: %d\r\n" % self._announced
        self._head_bytes = 0
        self.data_received(b"%b %b HTTP/1.1\r\n%b\r\n%b" % (method, self._url, lines, rest))

    def _refuse_now(self, refusal: Refusal) -> None:
        """Answer what cannot be read to its end, then throw away what still comes."""
        if self._discarding:
            return
        request = self._request or Request(Head())
        self._discarding = True
        self._request, self._body = None, []
        self._waiting.clear()
        if self._current is None:
            request.keep_alive, request.refusal = False, refusal
            self._begin(request)

    def _linger(self) -> None:
        if self._transport is None:
            return
        if not self._discarding:
            self._transport.close()
            return
        self.deadline = self._server.now() + LINGER_SECONDS
        if self._transport.can_write_eof():
            self._transport.write_eof()

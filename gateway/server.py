"""The HTTP/1.1 side that clients talk to: parsing, limits, timeouts, pipelining, drain.

Written on asyncio's protocols because a framework's cost per request and per streamed chunk is
several times that of the work done here.

- A request reaches the handler whole; its head and body are bounded in bytes and in time.
- Pipelined requests are answered one after the other, in order.
- What cannot be parsed is answered 400 and the connection closed, so that nothing is smuggled.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, cast

import httptools

from gateway.wire import UPGRADE, Refusal, header_lines, status_line

log = logging.getLogger(__name__)

SWEEP_SECONDS = 0.25
MAX_PIPELINED = 16
LINGER_SECONDS = 3.0
"""How long what a refused client still sends is read and thrown away before the close: a close
with unread bytes would reset the connection and lose the answer."""


@dataclass(frozen=True)
class Limits:
    """What one connection may take, in bytes and seconds."""

    body_bytes: int = 16 * 2**20
    head_bytes: int = 64 * 2**10
    head_seconds: float = 15.0
    """From the first byte of a head to its end."""
    body_seconds: float = 300.0
    body_gap_seconds: float = 30.0
    """Between two segments of a body."""
    send_seconds: float = 120.0
    """For a client that does not read what it asked for."""
    idle_seconds: float = 75.0
    """Between two requests."""


class Request:
    """One request, whole."""

    __slots__ = (
        "body", "headers", "http10", "keep_alive", "known", "method", "path", "query",
        "received_at", "refusal", "started",
    )  # fmt: skip

    def __init__(self) -> None:
        self.received_at = time.time()
        self.started = time.perf_counter()
        self.method = b""
        self.path = b""
        self.query = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.known: dict[bytes, bytes] = {}
        """The headers by name; of one that stands there twice the last."""
        self.body = b""
        self.http10 = False
        self.keep_alive = True
        self.refusal: Refusal | None = None

    def elapsed_ms(self) -> float:
        """Milliseconds since the first byte."""
        return (time.perf_counter() - self.started) * 1000


class Handler(Protocol):
    """What answers requests."""

    def early(self, request: Request) -> Refusal | None:
        """Refuse a request by its head, before its body is read."""
        ...

    def handle(self, request: Request, client: "Client") -> Coroutine[Any, Any, None]:
        """Answer through `client`; cancelled when the client goes away."""
        ...

    def refused(self, request: Request, refusal: Refusal) -> bytes:
        """Note a refusal that the server itself decided; the header lines of its answer."""
        ...


class Client(asyncio.Protocol):
    """One connection of a client."""

    def __init__(self, server: "Server") -> None:
        self._server = server
        self._limits = server.limits
        self._handle = server.handle
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._request: Request | None = None
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
        self._waiting: deque[Request] = deque()
        self._current: Request | None = None
        self.task: asyncio.Task[None] | None = None
        """Answers the current request."""
        self._discarding = False
        self._chunked = False
        self.deadline = server.now() + self._limits.head_seconds
        self.flow: Callable[[bool], None] | None = None
        """Told False when the client cannot take more for now, True when it can again."""

    # The transport's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._server.clients.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._server.clients.discard(self)
        self._transport = None
        self._waiting.clear()
        if self.task is not None:
            self.task.cancel()

    def data_received(self, data: bytes) -> None:
        if self._discarding:
            return
        if self._in_head:
            self._head_bytes += len(data)
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
        self._request = Request()
        self._url, self._body, self._body_bytes, self._size = b"", [], 0, 0
        self._announced = 0
        self._in_head = True
        if self._current is None:
            self.deadline = self._server.now() + self._limits.head_seconds

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._size += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        assert self._request is not None
        self._size += len(name) + len(value)
        name = name.lower()
        if name == b"content-length":
            # Kept apart: all other headers of a connection's requests are mostly the same.
            self._announced = int(value)
        else:
            self._request.headers.append((name, value))

    def on_headers_complete(self) -> None:
        request = self._request
        assert request is not None
        if self._parser.should_upgrade():
            return
        self._in_head, self._head_bytes = False, 0
        request.method = self._parser.get_method()
        request.path, _, request.query = self._url.partition(b"?")
        request.http10 = self._parser.get_http_version() == "1.0"
        request.keep_alive = self._parser.should_keep_alive()
        self._body_until = self._server.now() + self._limits.body_seconds
        request.known = known = dict(request.headers)
        if self._size > self._limits.head_bytes:
            self._refuse_now(Refusal(431, "The request's headers are too large."))
            return
        if self._announced > self._limits.body_bytes:
            self._refuse_now(self._too_large())
            return
        request.refusal = self._server.early(request)
        if b"expect" in known and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        self._body_bytes += len(data)
        if self._body_bytes > self._limits.body_bytes:
            self._refuse_now(self._too_large())
        elif self._request is not None and self._request.refusal is None:
            self._body.append(data)

    def on_message_complete(self) -> None:
        request = self._request
        if request is None or self._discarding or self._parser.should_upgrade():
            return
        request.body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
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
        if request.http10 and not close:
            close = b"connection: keep-alive\r\n"
        head = b"%b%b%bcontent-length: %d\r\n\r\n" % (status_line(status), lines, close, len(body))
        if request.method == b"HEAD":
            body = b""
        if len(body) < 65_536:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))

    def start(self, status: int, lines: bytes) -> None:
        """The head of a streamed answer."""
        request = self._current
        if self._transport is None or request is None:
            return
        self._chunked = not request.http10
        if request.http10:
            request.keep_alive = False
        more = b"transfer-encoding: chunked\r\n" if self._chunked else b""
        if not self._stays(request):
            more += b"connection: close\r\n"
        self._transport.write(b"%b%b%b\r\n" % (status_line(status), lines, more))

    def write(self, piece: bytes) -> None:
        """A piece of a streamed answer, sent at once."""
        if self._transport is not None:
            if self._chunked:
                piece = b"%x\r\n%b\r\n" % (len(piece), piece)
            self._transport.write(piece)

    def end(self, piece: bytes = b"") -> None:
        """The last piece and the end of a streamed answer."""
        if self._transport is None:
            return
        if self._chunked:
            last = b"%x\r\n%b\r\n0\r\n\r\n" % (len(piece), piece) if piece else b"0\r\n\r\n"
            self._transport.write(last)
        elif piece:
            self._transport.write(piece)

    def cut(self) -> None:
        """End a streamed answer so that the client sees that it is not whole."""
        if self._transport is not None:
            self._transport.abort()

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
        limit = self._limits.body_bytes
        return Refusal(413, f"The request's body is larger than {limit} bytes.", "body_too_large")

    def _begin(self, request: Request) -> None:
        self._current = request
        self.deadline = float("inf")
        self._chunked = False
        self.task = self._server.loop.create_task(self._run(request))

    async def _run(self, request: Request) -> None:
        try:
            if request.refusal is None:
                await self._handle(request, self)
            else:
                self._server.refuse(request, request.refusal, self)
        except asyncio.CancelledError:
            self.abort()
        except Exception:  # one request's error is not the others'
            log.exception("request failed in the gateway")
            self.abort()
        finally:
            self._current = self.task = self.flow = None
            if self._transport is not None:
                self._next(request)

    def _next(self, request: Request) -> None:
        """After an answer: close, take the next pipelined request, or wait for one."""
        assert self._transport is not None
        if not self._stays(request):
            self._linger()
        elif self._waiting:
            self._begin(self._waiting.popleft())
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
        request = self._request
        method = self._parser.get_method()
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
        request = self._request or Request()
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


class Server:
    """The listening side of one worker."""

    def __init__(self, handler: Handler, limits: Limits) -> None:
        self.loop = asyncio.get_running_loop()
        self.now = self.loop.time
        self.limits = limits
        self.clients: set[Client] = set()
        self.draining = False
        self.early = handler.early
        self.handle = handler.handle
        self._handler = handler
        self._listener: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None

    async def listen(self, **where: Any) -> None:
        """Accept connections; `where` as of `loop.create_server`."""
        self._listener = await self.loop.create_server(lambda: Client(self), **where)
        self._sweeper = self.loop.create_task(self._sweep())

    @property
    def port(self) -> int:
        """The port listened on."""
        assert self._listener is not None
        port = self._listener.sockets[0].getsockname()[1]
        assert isinstance(port, int)
        return port

    def refuse(self, request: Request, refusal: Refusal, client: Client) -> None:
        """Send a refusal that the handler has taken note of."""
        lines = self._handler.refused(request, refusal)
        client.respond(refusal.status, lines, refusal.body())

    async def stop(self, drain_seconds: float) -> None:
        """Accept no more, let requests in flight finish, then close what is left."""
        self.draining = True
        if self._listener is not None:
            self._listener.close()
        until = self.now() + drain_seconds
        while self.clients and self.now() < until:
            for client in tuple(self.clients):
                client.drain()
            await asyncio.sleep(0.02)
        left = {client.task for client in self.clients if client.task is not None}
        for client in tuple(self.clients):
            client.abort()
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=5.0)
        if self._sweeper is not None:
            self._sweeper.cancel()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = self.now()
            for client in tuple(self.clients):
                if client.deadline < now:
                    client.expired()

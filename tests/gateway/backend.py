"""An upstream for tests: a real HTTP server whose every byte the test decides."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Call:
    """One request as the backend received it."""

    path: str
    headers: dict[str, str]
    raw: bytes
    aborted: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the caller closes the connection."""

    @property
    def body(self) -> Any:
        return json.loads(self.raw)


Reply = Callable[[Call, asyncio.StreamWriter], Awaitable[None]]


class Backend:
    """Answers with `reply`, remembers every call."""

    def __init__(self, reply: Reply, tls: ssl.SSLContext | None = None) -> None:
        self.reply = reply
        self._tls = tls
        self.calls: list[Call] = []
        self.port = 0
        self.connections = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://127.0.0.1:{self.port}/v1"

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """As a server that dies: connections are cut."""
        assert self._server is not None
        self._server.close()
        for writer in tuple(self._writers):
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while True:
                call = await _read(reader)
                self.calls.append(call)
                watch = asyncio.create_task(_watch(reader, call))
                try:
                    await self.reply(call, writer)
                    await writer.drain()
                finally:
                    watch.cancel()
                if writer.is_closing():
                    return
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()


async def _read(reader: asyncio.StreamReader) -> Call:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {
        name.lower(): value for name, value in (line.split(": ", 1) for line in head[1:] if line)
    }
    raw = await reader.readexactly(int(headers.get("content-length", "0")))
    return Call(head[0].split(" ")[1], headers, raw)


async def _watch(reader: asyncio.StreamReader, call: Call) -> None:
    """No client of ours pipelines, so the end of input is the caller's going away."""
    while not reader.at_eof():
        if reader.exception() is not None:
            break
        await asyncio.sleep(0.01)
    call.aborted.set()


def answer(
    body: bytes, status: int = 200, kind: str = "application/json", **headers: str
) -> bytes:  # fmt: skip
    """A whole HTTP answer."""
    lines = [f"HTTP/1.1 {status} X", f"content-type: {kind}", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


def chunk(data: bytes) -> bytes:
    """One HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(content: Any) -> bytes:
    """One server-sent event."""
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    return f"data: {text}\n\n".encode()


def chat_body(text: str = "SELECT 1", model: str = "m", **extra: Any) -> bytes:
    """A chat completion."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": "stop", "message": message, "logprobs": None}
    content = {
        "id": "chatcmpl-up", "object": "chat.completion", "created": 1, "model": model,
        "choices": [choice],
        "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}, **extra,
    }  # fmt: skip
    return json.dumps(content).encode()


def chat_chunk(text: str | None, finish: str | None = None) -> bytes:
    """One event of a streamed chat completion."""
    delta = {"content": text} if text is not None else {}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return event(
        {
            "id": "chatcmpl-up", "object": "chat.completion.chunk", "created": 1, "model": "m",
            "choices": [choice],
        }
    )  # fmt: skip


async def plain(call: Call, writer: asyncio.StreamWriter) -> None:
    """A chat completion, streamed if asked for."""
    if call.path.endswith("/models"):
        writer.write(answer(json.dumps({"object": "list", "data": [{"id": "m"}]}).encode()))
        return
    model = call.body["model"]
    if not call.body.get("stream"):
        writer.write(answer(chat_body(model=model)))
        return
    writer.write(STREAM_HEAD)
    for piece in (chat_chunk("SEL"), chat_chunk("ECT 1"), chat_chunk(None, "stop")):
        writer.write(chunk(piece))
        await writer.drain()
    writer.write(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


@asynccontextmanager
async def backend(
    reply: Reply = plain, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Backend]:
    """A running backend."""
    server = Backend(reply, tls)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()

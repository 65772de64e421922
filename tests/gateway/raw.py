"""HTTP by hand: what no well-behaved client would send."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.gateway.door import CHAT, Door


class Wire:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, seconds: float = 10.0) -> tuple[int, dict[str, str], bytes]:
        """The next answer: status, headers, body."""
        async with asyncio.timeout(seconds):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            body = b""
            if "content-length" in headers:
                body = await self.reader.readexactly(int(headers["content-length"]))
            elif headers.get("transfer-encoding") == "chunked":
                body = await self._chunks()
            return int(head[0].split(" ")[1]), headers, body

    async def rest(self, seconds: float = 10.0) -> bytes:
        """All that comes until the other side closes."""
        async with asyncio.timeout(seconds):
            try:
                return await self.reader.read(-1)
            except ConnectionError:
                return b""

    async def _chunks(self) -> bytes:
        body = b""
        while True:
            size = int((await self.reader.readline()).strip(), 16)
            body += (await self.reader.readexactly(size + 2))[:-2]
            if size == 0:
                return body


def post(body: bytes | None = None, *lines: str, version: str = "1.1") -> bytes:
    """A chat request."""
    content = json.dumps(CHAT).encode() if body is None else body
    head = [f"POST /v1/chat/completions HTTP/{version}", "host: localhost", *lines]
    if not any(line.lower().startswith(("content-length", "transfer-encoding")) for line in lines):
        head.append(f"content-length: {len(content)}")
    return "\r\n".join(head).encode() + b"\r\n\r\n" + content


@asynccontextmanager
async def wire(gate: Door) -> AsyncIterator[Wire]:
    """A connection to the gateway."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gate.server.port)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()

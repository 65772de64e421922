"""Load for the gateway benchmark, in a process of its own: prints one JSON object.

`rate`: requests at fixed times whatever the answers do (no coordinated omission).
`streams`: so many streams at once, with the time to the first chunk of each.
"""

import asyncio
import json
import statistics
import sys
import time
from typing import cast

import uvloop

from benchmarks.gateway_servers import BODIES

CONNECTIONS = 32


class Connection(asyncio.Protocol):
    """A client that asks and waits for the end it is told to look for."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._done: asyncio.Future[float] | None = None
        self._until = b""
        self._tail = b""
        self.first = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(ConnectionError("closed"))

    def ask(self, data: bytes, until: bytes) -> "asyncio.Future[float]":
        """Send; the future is the time at which `until` had come."""
        assert self._transport is not None
        self._done = asyncio.get_running_loop().create_future()
        self._until, self._tail, self.first = until, b"", 0.0
        self._transport.write(data)
        return self._done

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        window = self._tail + data
        if not self.first and b"data: " in window:
            self.first = now
        if self._done is not None and not self._done.done():
            if window.startswith(b"HTTP/1.1 ") and not window.startswith(b"HTTP/1.1 200"):
                self._done.set_exception(ConnectionError(window[:40].decode("latin-1")))
            elif self._until in window:
                self._done.set_result(now)
        self._tail = window[-64:]

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()


def request(*lines: str, number: int = 0, stream: bool = False) -> bytes:
    """A chat request."""
    body = BODIES[number % len(BODIES)]
    body = body[:-1] + b',"stream":true}' if stream else body
    head = ["POST /v1/chat/completions HTTP/1.1", "host: localhost"]
    head += ["content-type: application/json"]
    head += ["authorization: Bearer sk-test", *lines, f"content-length: {len(body)}"]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


async def rate(port: int, per_second: float, seconds: float) -> dict[str, float]:
    """Requests at fixed times over kept connections; latency from the time it was due."""
    loop = asyncio.get_running_loop()
    idle: list[Connection] = []
    for _ in range(CONNECTIONS):
        _, connection = await loop.create_connection(Connection, "127.0.0.1", port)
        idle.append(connection)
    asked = [request(number=number) for number in range(len(BODIES))]
    latencies, errors, tasks = list[float](), 0, set()
    total, start = int(per_second * seconds), time.perf_counter() + 0.1

    async def one(number: int, due: float) -> None:
        nonlocal errors
        while not idle:
            await asyncio.sleep(0.001)
        connection = idle.pop(0)
        try:
            data = asked[number % len(asked)]
            latencies.append(await connection.ask(data, b'"total_tokens"') - due)
        except ConnectionError:
            errors += 1
            return
        idle.append(connection)

    for number in range(total):
        due = start + number / per_second
        while (wait := due - time.perf_counter()) > 0:
            # The loop's clock counts milliseconds; the last one is spun away.
            await asyncio.sleep(wait - 0.001 if wait > 0.0015 else 0)
        task = loop.create_task(one(number, due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    if tasks:
        await asyncio.wait(tasks, timeout=10)
    latencies.sort()
    return {
        "count": len(latencies),
        "errors": errors,
        "p50_ms": statistics.median(latencies) * 1000,
        "p99_ms": latencies[int(len(latencies) * 0.99)] * 1000,
    }


async def streams(port: int, count: int, chunks: int, pace_ms: int) -> dict[str, float]:
    """So many streams at once, started over one second."""
    loop = asyncio.get_running_loop()
    data = request(f"x-chunks: {chunks}", f"x-pace-ms: {pace_ms}", stream=True)
    firsts: list[float] = []
    errors = 0

    async def one(number: int) -> None:
        nonlocal errors
        await asyncio.sleep(number / count * max(1.0, count / 500))
        try:
            _, connection = await loop.create_connection(Connection, "127.0.0.1", port)
            started = time.perf_counter()
            await asyncio.wait_for(connection.ask(data, b"[DONE]"), chunks * pace_ms / 1000 + 60)
            firsts.append(connection.first - started)
            connection.close()
        except (OSError, TimeoutError):
            errors += 1

    started = time.perf_counter()
    await asyncio.gather(*(one(number) for number in range(count)))
    return {
        "count": len(firsts),
        "errors": errors,
        "first_p50_ms": statistics.median(firsts) * 1000 if firsts else -1.0,
        "seconds": time.perf_counter() - started,
    }


if __name__ == "__main__":
    kind, port, *numbers = sys.argv[1:]
    if kind == "rate":
        result = uvloop.run(rate(int(port), float(numbers[0]), float(numbers[1])))
    else:
        result = uvloop.run(streams(int(port), *map(int, numbers)))
    print(json.dumps(result))

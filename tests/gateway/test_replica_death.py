"""A replica that dies takes no request with it, however many it had in flight."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.gateway.backend import Call, answer, backend, plain
from tests.gateway.door import door

pytestmark = pytest.mark.anyio

IN_FLIGHT = 60
"""Half of them on the replica that dies: three times what may be retried at once."""


class Held:
    """Answers chats once let go."""

    def __init__(self) -> None:
        self.arrived = 0
        self.let = asyncio.Event()

    async def __call__(self, call: Call, writer: asyncio.StreamWriter) -> None:
        self.arrived += 1
        await self.let.wait()
        if not writer.is_closing():
            await plain(call, writer)

    async def holds(self, number: int) -> None:
        async with asyncio.timeout(60):
            while self.arrived < number:
                await asyncio.sleep(0.01)


async def cut(call: Call, writer: asyncio.StreamWriter) -> None:
    """As a server that dies of what it is asked."""
    writer.transport.abort()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("kept", [False, True], ids=["new connections", "kept connections"])
async def test_all_that_was_in_flight_is_answered_by_the_other(
    tmp_path: Path, kept: bool, stream: bool
) -> None:
    hold = Held()
    async with backend(hold) as one, backend(hold) as two:
        settings = {"replicas": [two.url], "health_check_seconds": 0}
        async with door(tmp_path, one.url, settings=settings) as gate:
            if kept:
                hold.let.set()
                await asyncio.gather(*(gate.chat() for _ in range(IN_FLIGHT)))
                hold.let.clear()
            before = hold.arrived
            asked = [asyncio.create_task(gate.chat(stream=stream)) for _ in range(IN_FLIGHT)]
            await hold.holds(before + IN_FLIGHT)
            await two.stop()
            hold.let.set()
            codes = [(await got).status_code for got in asked]
            assert codes == [200] * IN_FLIGHT
            assert {event.status for event in gate.completions()} == {"ok"}


async def test_servers_that_die_of_every_request_are_not_asked_twice_as_much(
    tmp_path: Path,
) -> None:
    async with backend(cut) as one, backend(cut) as two:
        settings = {"replicas": [two.url], "health_check_seconds": 0, "max_retries": 1}
        async with door(tmp_path, one.url, settings=settings) as gate:
            codes = {(await gate.chat()).status_code for _ in range(40)}
            assert codes == {502}
            # Until both are known to be sick each may be asked in the other's stead.
            assert len(one.calls) + len(two.calls) <= 40 * 1.2 + 10 + 6


@pytest.mark.parametrize("path", ["chat/completions", "files"])
async def test_what_reached_nobody_goes_to_another_whatever_may_be_sent_twice(
    tmp_path: Path, free_port: Callable[[], int], path: str
) -> None:
    dead = [f"http://127.0.0.1:{free_port()}/v1" for _ in range(3)]

    async def takes(call: Call, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(b"{}"))

    async with backend(takes) as last:
        settings = {"replicas": [*dead[1:], last.url], "health_check_seconds": 0, "max_retries": 0}
        async with door(tmp_path, dead[0], settings=settings) as gate:
            for _ in range(8):
                got = await gate.client.post(f"/v1/{path}", json={"model": "m"})
                assert got.status_code == 200
            assert len(last.calls) == 8


async def test_what_creates_something_is_sent_once_though_the_connection_was_kept(
    tmp_path: Path,
) -> None:
    async def dies_of_files(call: Call, writer: asyncio.StreamWriter) -> None:
        await (cut if call.path.endswith("files") else plain)(call, writer)

    async with backend(dies_of_files) as upstream, door(tmp_path, upstream.url) as gate:
        assert (await gate.chat()).status_code == 200
        assert (await gate.client.post("/v1/files", json={})).status_code == 502
        assert [call.path for call in upstream.calls] == ["/v1/chat/completions", "/v1/files"]

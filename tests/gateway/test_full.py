"""A full log and a full disk: users are served or refused as configured, and every loss is said."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from collector.wal_source import free
from everlearn.config import Service
from everlearn.events import Completion
from everlearn.log.identity import worker_folders
from tests.disks import DiskMaker, disk_maker, fill
from tests.gateway.backend import Call, backend, plain
from tests.gateway.door import CHAT, Door, captured, door
from tests.gateway.processes import process

pytestmark = pytest.mark.anyio

SMALL = {"wal_max_bytes": 16384, "segment_bytes": 4096}
UP = {"completion_id": "cmpl_x", "value": True, "idempotency_key": "once"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[DiskMaker]:
    with disk_maker(tmp_path) as maker:
        yield maker


async def health(client: httpx.AsyncClient) -> dict[str, Any]:
    found: dict[str, Any] = (await client.get("/health")).json()
    return found


async def chat(client: httpx.AsyncClient) -> httpx.Response:
    return await client.post("/v1/chat/completions", json=CHAT)


def free_all(service: Service) -> None:
    """As a collector that has stored everything."""
    for folder in worker_folders(service.wal_path):
        free(folder, 2**62)


def is_capture_full(got: httpx.Response) -> bool:
    error = got.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert got.headers["content-type"] == "application/json"
    assert int(got.headers["retry-after"]) >= 1
    return (got.status_code, error["type"], error["code"]) == (503, "server_error", "capture_full")


async def recovered(gate: Door) -> None:
    """Once requests are taken again."""
    async with asyncio.timeout(10):
        while (await gate.client.get("/ready")).status_code != 200:
            await asyncio.sleep(0.05)


async def test_drop_newest_serves_on_says_it_loudly_and_counts_exactly(tmp_path: Path) -> None:
    async with backend() as upstream, door(tmp_path, upstream.url, capture=SMALL) as gate:
        answers = [await gate.chat() for _ in range(60)]
        assert {got.status_code for got in answers} == {200}
        kept = len(gate.completions())
        assert 0 < kept < 60
        state = await health(gate.client)
        assert state["status"] == "degraded"
        assert state["warnings"] == [
            f"{60 - kept} events were dropped: the log or the disk was full"
        ]
        assert (state["capture"]["acknowledged"], state["capture"]["dropped"]) == (kept, 60 - kept)
        assert (await gate.client.get("/ready")).status_code == 200
        free_all(gate.service)
        await asyncio.sleep(0.2)
        before = len(gate.completions())
        assert (await gate.chat()).status_code == 200
        assert len(gate.completions()) == before + 1
        state = await health(gate.client)
        assert (state["capture"]["acknowledged"], state["capture"]["dropped"]) == (
            kept + 1,
            60 - kept,
        )
        assert state["warnings"], "what is lost stays said"


async def test_feedback_that_cannot_be_kept_is_never_called_accepted(tmp_path: Path) -> None:
    async with backend() as upstream, door(tmp_path, upstream.url, capture=SMALL) as gate:
        while not (await health(gate.client))["warnings"]:
            await gate.chat()
        assert is_capture_full(await gate.client.post("/v1/feedback", json=UP))
        free_all(gate.service)
        await asyncio.sleep(0.2)
        got = await gate.client.post("/v1/feedback", json=UP)
        assert (got.status_code, got.json()["status"]) == (202, "accepted")
        assert [event.idempotency_key for event in gate.feedback()] == ["once"]


async def test_reject_refuses_in_openais_shape_and_takes_up_again_when_there_is_room(
    tmp_path: Path,
) -> None:
    capture = {**SMALL, "on_full": "reject"}
    async with backend() as upstream, door(tmp_path, upstream.url, capture=capture) as gate:
        answers = [await gate.chat() for _ in range(60)]
        answered = sum(got.status_code == 200 for got in answers)
        assert 0 < answered < 60
        assert all(is_capture_full(got) for got in answers[answered:])
        assert len(upstream.calls) == answered, "nobody is asked what would be refused"
        assert is_capture_full(await gate.client.post("/v1/feedback", json=UP))
        state = await health(gate.client)
        assert state["warnings"] == ["capture is full: requests are refused"]
        assert (state["capture"]["acknowledged"], state["capture"]["dropped"]) == (answered, 0)
        assert len(gate.completions()) == answered
        assert (await gate.client.get("/ready")).status_code == 503
        free_all(gate.service)
        await recovered(gate)
        assert (await gate.chat()).status_code == 200
        assert (await gate.client.post("/v1/feedback", json=UP)).status_code == 202
        assert (await health(gate.client))["status"] == "ok"


async def test_under_reject_the_refused_leave_the_room_to_what_is_in_flight(
    tmp_path: Path,
) -> None:
    release = asyncio.Event()

    async def held(call: Call, writer: asyncio.StreamWriter) -> None:
        if b"held" in call.raw:
            await release.wait()
        await plain(call, writer)

    capture = {**SMALL, "on_full": "reject"}
    async with backend(held) as upstream, door(tmp_path, upstream.url, capture=capture) as gate:
        asked = asyncio.create_task(gate.chat(user="held"))
        async with asyncio.timeout(10):
            while not upstream.calls:
                await asyncio.sleep(0.01)
        refused = 0
        while refused < 100:
            refused += (await gate.chat()).status_code == 503
        release.set()
        assert (await asked).status_code == 200
        assert gate.completions()[-1].unit == "held"
        assert (await health(gate.client))["capture"]["dropped"] == 0


async def test_a_gateway_starts_on_a_full_disk_serves_counts_and_recovers(
    tmp_path: Path, free_port: Callable[[], int], small_disk: DiskMaker
) -> None:
    disk = small_disk(512)
    filler = fill(disk)
    async with (
        backend() as upstream,
        process(tmp_path, upstream, free_port(), data_dir=disk) as (service, client, _),
    ):
        assert {(await chat(client)).status_code for _ in range(20)} == {200}
        state = await health(client)
        assert state["capture"]["dropped"] == 20
        assert state["warnings"] == ["20 events were dropped: the log or the disk was full"]
        filler.unlink()
        await asyncio.sleep(0.3)
        assert {(await chat(client)).status_code for _ in range(5)} == {200}
        state = await health(client)
        assert (state["capture"]["acknowledged"], state["capture"]["dropped"]) == (5, 20)
        assert len(captured(service)) == 5
        fill(disk)
        answers = [await chat(client) for _ in range(30)]
        assert {got.status_code for got in answers} == {200}
        kept = len(captured(service))
        state = await health(client)
        assert state["capture"]["dropped"] == 20 + 30 - (kept - 5)
        assert state["capture"]["acknowledged"] == kept
    ids = {event.completion_id for event in captured(service) if isinstance(event, Completion)}
    assert len(ids) == kept


async def test_under_reject_a_gateway_starts_on_a_full_disk_refuses_and_recovers(
    tmp_path: Path, free_port: Callable[[], int], small_disk: DiskMaker
) -> None:
    disk = small_disk(512)
    filler = fill(disk)
    capture = {"on_full": "reject"}
    async with (
        backend() as upstream,
        process(tmp_path, upstream, free_port(), data_dir=disk, capture=capture) as running,
    ):
        service, client, _ = running
        for _ in range(5):
            assert is_capture_full(await chat(client))
        assert upstream.calls == []
        state = await health(client)
        assert state["warnings"] == ["capture is full: requests are refused"]
        filler.unlink()
        async with asyncio.timeout(10):
            while (await client.get("/ready")).status_code != 200:
                await asyncio.sleep(0.05)
        assert (await chat(client)).status_code == 200
        assert len(captured(service)) == 1
        state = await health(client)
        assert (state["status"], state["capture"]["dropped"]) == ("ok", 0)

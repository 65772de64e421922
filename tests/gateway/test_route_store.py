"""Gateways of several hosts follow the routes of one state store."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from everlearn.state import State
from gateway.routes import ArmRoute, read_routes
from serving.release.book import Book
from serving.release.states import Traffic, revert
from tests.gateway.backend import Backend, backend
from tests.gateway.door import BASE, Door, door

pytestmark = pytest.mark.anyio
NEW = ArmRoute(version="7", model="sql-7")


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A state store of both hosts."""
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    monkeypatch.setenv("EVERLEARN_STATE__URL", url)
    return url


@asynccontextmanager
async def hosts(folder: Path, count: int = 2) -> AsyncIterator[tuple[Backend, list[Door]]]:
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(backend())
        doors = []
        for number in range(count):
            (folder / f"host-{number}").mkdir(exist_ok=True)
            doors.append(
                await stack.enter_async_context(door(folder / f"host-{number}", upstream.url))
            )
        yield upstream, doors


async def answers(gate: Door, version: str, seconds: float = 5.0) -> float:
    """How long until that version answers."""
    began = time.monotonic()
    async with asyncio.timeout(seconds):
        while (await gate.chat()).headers["x-everlearn-version"] != version:
            await asyncio.sleep(0.02)
    return time.monotonic() - began


async def test_two_hosts_follow_one_store_within_a_second(tmp_path: Path, url: str) -> None:
    book = Book(State(url))
    promoted = Traffic(champion=NEW, last_good=BASE)
    async with hosts(tmp_path) as (_, doors):
        waited: list[float] = []
        for turn in range(4):
            for gate in doors:
                assert (await gate.chat()).headers["x-everlearn-version"] in {"7", "base"}
            found = book.read("text2sql")
            traffic = promoted if turn % 2 == 0 else revert(promoted, "odd", time.time())
            book.write("text2sql", traffic, found[1] if found else 0)
            version = traffic.champion.version
            waited += await asyncio.gather(*(answers(gate, version) for gate in doors))
        assert sorted(waited)[-2] < 1.0
        files = [read_routes(gate.service.routes_path).tasks for gate in doors]
        assert files[0] == files[1]
        assert doors[0].service.routes_path != doors[1].service.routes_path


async def test_a_store_that_is_away_leaves_the_routes_as_they_were(
    tmp_path: Path, url: str
) -> None:
    store = tmp_path / "shared.db"
    book = Book(State(url))
    book.write("text2sql", Traffic(champion=NEW))
    async with hosts(tmp_path, 1) as (_, (gate,)):
        assert (await gate.chat()).headers["x-everlearn-version"] == "7"
        with sqlite3.connect(store) as connection:
            connection.execute("ALTER TABLE documents RENAME TO away")
        await asyncio.sleep(0.8)
        assert (await gate.chat()).headers["x-everlearn-version"] == "7"
    content = store.read_bytes()
    store.write_bytes(b"no database, and never was one")
    # Started while it is away: the copy of this host must do.
    async with hosts(tmp_path, 1) as (_, (gate,)):
        assert (await gate.chat()).headers["x-everlearn-version"] == "7"
        store.write_bytes(content)
        with sqlite3.connect(store) as connection:
            connection.execute("ALTER TABLE away RENAME TO documents")
        found = book.read("text2sql")
        assert found is not None
        book.write("text2sql", Traffic(champion=BASE), found[1])
        assert await answers(gate, "base") < 2


async def test_a_controller_of_this_host_that_is_ahead_is_not_set_back(
    tmp_path: Path, url: str
) -> None:
    book = Book(State(url))
    book.write("text2sql", Traffic(champion=NEW))
    async with hosts(tmp_path, 1) as (_, (gate,)):
        path = gate.service.routes_path
        ahead = read_routes(path)
        path.unlink()
        assert await answers(gate, "base") < 2
        await asyncio.sleep(0.7)
        assert not path.exists()
        assert ahead.tasks["text2sql"].champion == NEW


async def test_a_route_that_cannot_be_read_costs_its_own_task_alone(
    tmp_path: Path, url: str
) -> None:
    state = State(url)
    state.put("traffic", "other", {"route": {"champion": {"version": 7}}})
    state.put("traffic", "third", {"champion": {}})
    Book(state).write("text2sql", Traffic(champion=NEW))
    async with hosts(tmp_path, 1) as (_, (gate,)):
        assert (await gate.chat()).headers["x-everlearn-version"] == "7"
        assert list(read_routes(gate.service.routes_path).tasks) == ["text2sql"]

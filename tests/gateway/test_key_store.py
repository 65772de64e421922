"""Keys of the state store: followed by a running gateway, and a door that never falls open."""

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from everlearn.config import Key
from everlearn.keys import PREFIX, create_key, revoke_key
from everlearn.state import State, open_state
from gateway.http.wire import Refusal
from gateway.keys import Keyring
from tests.builders import make_service, sha256
from tests.gateway.backend import backend
from tests.gateway.door import Door, door

pytestmark = pytest.mark.anyio
SHOWN = {b"authorization": b"Bearer secret-1"}
KEY = Key(id="a", sha256=sha256("secret-1"), requests_per_minute=2)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = open_state(make_service(tmp_path))
    yield state
    state.close()


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def until(status: int, ask: Callable[[], Awaitable[Any]], seconds: float = 10.0) -> float:
    """Ask until that status comes; how long it took."""
    began = time.monotonic()
    async with asyncio.timeout(seconds):
        while (await ask()).status_code != status:
            await asyncio.sleep(0.05)
    return time.monotonic() - began


async def health(gate: Door) -> dict[str, Any]:
    content: dict[str, Any] = (await gate.client.get("/health")).json()
    return content


async def test_a_running_gateway_follows_the_store(tmp_path: Path, state: State) -> None:
    async with backend() as upstream, door(tmp_path, upstream.url) as gate:
        assert (await gate.chat()).status_code == 200
        key = create_key(state, time.time(), id="team-a")
        assert await until(401, gate.chat) < 3
        assert (await gate.chat(bearer(key))).status_code == 200
        assert gate.completions()[-1].key_id == "team-a"
        revoke_key(state, "team-a", time.time())
        assert await until(401, lambda: gate.chat(bearer(key))) < 3
        # The last key is gone; the door stays shut.
        assert (await gate.chat()).status_code == 401
    async with backend() as upstream, door(tmp_path, upstream.url) as gate:
        assert (await gate.chat()).status_code == 401
        assert key not in repr(gate.events())


async def test_keys_come_and_go_without_a_lost_request(tmp_path: Path, state: State) -> None:
    keys = [{"id": "team-a", "sha256": sha256("secret-1")}]
    async with backend() as upstream, door(tmp_path, upstream.url, keys=keys) as gate:
        made, statuses = 0, []
        end = time.monotonic() + 3
        while time.monotonic() < end:
            create_key(state, time.time(), id=f"other-{made}")
            if made:
                revoke_key(state, f"other-{made - 1}", time.time())
            made += 1
            got = await asyncio.gather(*(gate.chat(bearer("secret-1")) for _ in range(10)))
            statuses += [one.status_code for one in got]
        assert set(statuses) == {200}


async def test_the_door_is_reopened_by_config_alone(tmp_path: Path, state: State) -> None:
    first, second = (create_key(state, time.time(), id=name) for name in ("a", "b"))
    revoke_key(state, "a", time.time())
    async with backend() as upstream, door(tmp_path, upstream.url, require_key=False) as gate:
        assert (await gate.chat()).status_code == 200
        assert (await gate.chat(bearer("sk-of-the-upstream"))).status_code == 200
        assert upstream.calls[-1].headers["authorization"] == "Bearer sk-of-the-upstream"
        assert (await gate.chat(bearer(second))).status_code == 200
        assert gate.completions()[-1].key_id == "b"
        # A key of ours never travels on as if it were the upstream's, not even a revoked one.
        assert (await gate.chat(bearer(first))).status_code == 401
        await gate.client.get("/v1/models", headers=bearer(second))
        assert "authorization" not in upstream.calls[-1].headers


async def test_a_key_can_be_required_before_there_is_one(tmp_path: Path) -> None:
    async with backend() as upstream, door(tmp_path, upstream.url, require_key=True) as gate:
        assert (await gate.chat()).status_code == 401
        assert (await health(gate))["keys"] == {"required": True, "error": None}


async def test_a_store_that_goes_away_leaves_the_last_good_keys(
    tmp_path: Path, state: State
) -> None:
    key = create_key(state, time.time(), id="team-a")
    path = tmp_path / ".everlearn" / "state.db"
    async with backend() as upstream, door(tmp_path, upstream.url) as gate:
        with sqlite3.connect(path) as broken:
            broken.execute("ALTER TABLE documents RENAME TO away")
        async with asyncio.timeout(10):
            while (await health(gate))["keys"]["error"] is None:
                await asyncio.sleep(0.05)
        assert (await gate.chat(bearer(key))).status_code == 200
        assert (await gate.chat()).status_code == 401
        assert "keys kept as they were" in (await health(gate))["warnings"][0]
        broken.execute("ALTER TABLE away RENAME TO documents")
        async with asyncio.timeout(10):
            while (await health(gate))["warnings"]:
                await asyncio.sleep(0.05)
        broken.close()


async def test_a_gateway_without_its_store_serves_the_keys_of_the_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.keystore.START_SECONDS", 0.2)
    monkeypatch.setenv("EVERLEARN_STATE__URL", "postgresql+psycopg://127.0.0.1:1/none")
    keys = [{"id": "team-a", "sha256": sha256("secret-1")}]
    async with backend() as upstream, door(tmp_path, upstream.url, keys=keys) as gate:
        assert (await gate.chat(bearer("secret-1"))).status_code == 200
        assert (await gate.chat()).status_code == 401
        unknown = await gate.chat(bearer(PREFIX + "perhaps-in-the-store"))
        assert (unknown.status_code, unknown.headers["retry-after"]) == (503, "1")
        assert (await gate.client.get("/ready")).status_code == 200
    # Without a key in the config nobody knows whether one is needed: nobody is let in.
    async with backend() as upstream, door(tmp_path, upstream.url) as gate:
        assert (await gate.chat()).json()["error"]["code"] == "keys_unavailable"
        assert (await gate.client.get("/ready")).status_code == 503
    async with backend() as upstream, door(tmp_path, upstream.url, require_key=False) as gate:
        assert (await gate.chat(bearer("sk-of-the-upstream"))).status_code == 200


async def test_a_document_that_is_no_key_is_named_and_spoils_no_other(
    tmp_path: Path, state: State
) -> None:
    key = create_key(state, time.time(), id="team-a")
    state.put("key", "odd", {"id": "odd", "of_a_newer_version": True})
    async with backend() as upstream, door(tmp_path, upstream.url) as gate:
        assert (await gate.chat(bearer(key))).status_code == 200
        assert (await health(gate))["keys"]["error"] == "key odd in the state store cannot be read"


def test_a_key_that_stays_keeps_what_is_left_of_its_limits() -> None:
    ring = Keyring([], lambda: 0.0)
    ring.take([KEY], ever=True)
    for _ in range(2):
        holder = ring.holder(SHOWN)
        assert holder is not None
        ring.enter(holder, None)
    ring.take([KEY, Key(id="b", sha256=sha256("secret-2"))], ever=True)
    holder = ring.holder(SHOWN)
    assert holder is not None
    with pytest.raises(Refusal, match="2 requests per minute"):
        ring.enter(holder, None)


def test_a_store_that_was_wiped_opens_no_door() -> None:
    ring = Keyring([], lambda: 0.0, read=False)
    with pytest.raises(Refusal, match="cannot be looked up yet"):
        ring.holder({})
    ring.take([], ever=False)
    assert ring.holder({}) is None
    ring.take([KEY], ever=True)
    ring.take([], ever=False)
    with pytest.raises(Refusal, match="No API key"):
        ring.holder({})

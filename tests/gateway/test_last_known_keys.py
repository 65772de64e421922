"""A gateway that starts while its store of keys is broken lets in whom it let in before."""

import os
import time
from pathlib import Path

import pytest

from everlearn.keys import create_key, revoke_key
from everlearn.state import open_state
from gateway.keystore import LAST, read_last
from tests.builders import make_service
from tests.gateway.backend import backend
from tests.gateway.door import door
from tests.gateway.test_key_store import bearer, health, until

pytestmark = pytest.mark.anyio


async def known(tmp_path: Path, *ids: str, revoked: str = "") -> list[str]:
    """Keys that a gateway has read from the store."""
    state = open_state(make_service(tmp_path))
    keys = [create_key(state, time.time(), id=name) for name in ids]
    if revoked:
        revoke_key(state, revoked, time.time())
    state.close()
    async with backend() as upstream, door(tmp_path, upstream.url):
        pass
    return keys


def break_store(tmp_path: Path) -> Path:
    """The store is garbage; the file of the keys last known."""
    data = make_service(tmp_path).data_path
    for path in data.glob("state.db*"):
        path.write_bytes(os.urandom(4096))
    return data / LAST


async def test_the_keys_last_known_open_the_door_and_no_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good, gone = await known(tmp_path, "good", "gone", revoked="gone")
    last = break_store(tmp_path)
    assert last.stat().st_mode & 0o777 == 0o600
    assert good not in last.read_text()
    async with backend() as upstream, door(tmp_path, upstream.url) as gate:
        assert (await gate.chat(bearer(good))).status_code == 200
        # It may be a key that was made since: nobody can tell.
        assert (await gate.chat(bearer(gone))).status_code == 503
        assert (await gate.chat()).status_code == 401
        told = await health(gate)
        assert told["status"] == "degraded"
        assert "in force are the 1 keys last known" in str(told["warnings"])
        assert "in force are the 1 keys last known" in caplog.text
        assert (await gate.client.get("/ready")).status_code == 200


async def test_where_no_key_was_ever_known_none_is_asked_for(tmp_path: Path) -> None:
    await known(tmp_path)
    break_store(tmp_path)
    (make_service(tmp_path).data_path / "state.db").write_bytes(b"garbage" * 1000)
    async with backend() as upstream, door(tmp_path, upstream.url) as gate:
        assert (await gate.chat()).status_code == 200
        assert (await health(gate))["status"] == "degraded"


async def test_the_store_is_believed_again_once_it_answers(tmp_path: Path) -> None:
    (good,) = await known(tmp_path, "good")
    store = make_service(tmp_path).data_path / "state.db"
    whole = store.read_bytes()
    break_store(tmp_path)
    async with backend() as upstream, door(tmp_path, upstream.url) as gate:
        assert (await gate.chat(bearer(good))).status_code == 200
        for path in store.parent.glob("state.db-*"):
            path.unlink()
        store.write_bytes(whole)
        await until(401, lambda: gate.chat(bearer("everlearn-other")))
        assert (await gate.chat(bearer(good))).status_code == 200
        assert (await health(gate))["keys"]["error"] is None


@pytest.mark.parametrize("how", ["readable", "link", "garbage", "pipe", "none"])
async def test_a_file_that_others_may_have_made_is_not_believed(tmp_path: Path, how: str) -> None:
    await known(tmp_path, "good")
    last = make_service(tmp_path).data_path / LAST
    content = last.read_bytes()
    assert [key.id for key in read_last(last) or []] == ["good"]
    last.unlink()
    if how == "readable":
        last.write_bytes(content)
        last.chmod(0o644)
    elif how == "link":
        other = tmp_path / "other"
        other.write_bytes(content)
        other.chmod(0o600)
        last.symlink_to(other)
    elif how == "garbage":
        last.write_bytes(b'[{"id": 5}]')
        last.chmod(0o600)
    elif how == "pipe":
        os.mkfifo(last, 0o600)
    assert read_last(last) is None

"""Adapters on every replica or on none."""

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from everlearn.config import Upstream
from everlearn.errors import ServingError
from serving.fleet import Fleet, authorization
from tests.serving.conftest import Server, running

Start = Callable[..., Server]


def fleet(*addresses: str) -> Fleet:
    return Fleet(Upstream(base_url=addresses[0], replicas=addresses[1:], kind="vllm"))


def nobody(free_port: Callable[[], int]) -> str:
    return f"http://127.0.0.1:{free_port()}/v1"


def test_load_and_unload_reach_every_replica(start: Start, adapters: dict[str, Path]) -> None:
    one, two = start(), start()
    with fleet(one.address, two.address) as replicas:
        assert replicas.loaded() == {one.address: set(), two.address: set()}
        replicas.load("first", adapters["first"])
        replicas.load("second", adapters["second"])
        both = {"first", "second"}
        assert replicas.loaded() == {one.address: both, two.address: both}
        replicas.unload("first")
        assert replicas.loaded() == {one.address: {"second"}, two.address: {"second"}}


def test_loading_what_is_loaded_and_unloading_what_is_not_is_fine(
    start: Start, adapters: dict[str, Path]
) -> None:
    with fleet(start().address) as replicas:
        for _ in range(2):
            replicas.load("first", adapters["first"])
        for _ in range(2):
            replicas.unload("first")


def test_a_replica_that_refuses_undoes_the_load_and_is_named(
    start: Start, adapters: dict[str, Path]
) -> None:
    roomy, full = start(), start(max_adapters=1)
    with fleet(full.address) as alone:
        alone.load("second", adapters["second"])
    with fleet(roomy.address, full.address) as replicas:
        with pytest.raises(ServingError, match=rf"replica {full.address}: loading first: 400: 1 "):
            replicas.load("first", adapters["first"])
        assert replicas.loaded() == {roomy.address: set(), full.address: {"second"}}


def test_a_replica_that_had_it_keeps_it_when_another_refuses(
    start: Start, adapters: dict[str, Path]
) -> None:
    before, full = start(), start(max_adapters=1)
    with fleet(before.address) as alone:
        alone.load("first", adapters["first"])
    with fleet(full.address) as alone:
        alone.load("second", adapters["second"])
    with fleet(before.address, full.address) as replicas:
        with pytest.raises(ServingError):
            replicas.load("first", adapters["first"])
        assert replicas.loaded()[before.address] == {"first"}


def test_a_bad_folder_is_an_error_with_the_servers_reason(start: Start, tmp_path: Path) -> None:
    with fleet(start().address) as replicas:
        with pytest.raises(ServingError, match="cannot be read"):
            replicas.load("empty", tmp_path)
        assert set().union(*replicas.loaded().values()) == set()


def test_a_replica_that_is_down_is_named(
    start: Start, adapters: dict[str, Path], free_port: Callable[[], int]
) -> None:
    up, down = start().address, nobody(free_port)
    with fleet(up, down) as replicas:
        with pytest.raises(ServingError, match=f"replica {down}"):
            replicas.load("first", adapters["first"])
        with pytest.raises(ServingError, match=f"replica {down}"):
            replicas.loaded()
    with fleet(up) as alone:
        assert alone.loaded() == {up: set()}


def test_ensure_reloads_what_a_restarted_replica_lost(
    base: Path, start: Start, adapters: dict[str, Path], free_port: Callable[[], int]
) -> None:
    steady, port = start(), free_port()
    wanted = {name: adapters[name] for name in ("first", "second")}
    with fleet(steady.address, f"http://127.0.0.1:{port}/v1") as replicas:
        with running(base, port=port) as restarting:
            added = replicas.ensure(wanted)
            assert added == {steady.address: set(wanted), restarting.address: set(wanted)}
            assert replicas.ensure(wanted) == {}
        with running(base, port=port) as restarting:
            assert replicas.ensure(wanted) == {restarting.address: set(wanted)}
            assert replicas.loaded()[restarting.address] == set(wanted)


def test_ensure_serves_the_replicas_that_are_up_and_names_the_one_that_is_not(
    start: Start, adapters: dict[str, Path], free_port: Callable[[], int]
) -> None:
    up, down = start().address, nobody(free_port)
    with (
        fleet(down, up) as replicas,
        pytest.raises(ServingError, match=f"replica {down}"),
    ):
        replicas.ensure({"first": adapters["first"]})
    with fleet(up) as alone:
        assert alone.loaded() == {up: {"first"}}


def test_the_key_is_sent_when_one_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEET_KEY", "sesame")
    upstream = Upstream(base_url="http://127.0.0.1:1/v1", api_key_env="FLEET_KEY")
    assert authorization(upstream) == {"authorization": "Bearer sesame"}
    assert authorization(Upstream(base_url="http://127.0.0.1:1/v1")) == {}


def test_a_server_that_speaks_something_else_is_an_error(shared_server: Server) -> None:
    page = httpx.get(f"{shared_server.root}/metrics")
    assert page.status_code == 200
    with fleet(f"{shared_server.root}/docs?") as replicas, pytest.raises(ServingError):
        replicas.loaded()

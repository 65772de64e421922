"""Which adapters are loaded, verified, kept and unloaded on the model servers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from everlearn.config import Service, Upstream
from everlearn.errors import ServingError
from everlearn.task import Task
from gateway.routes import ArmRoute
from serving.fleet import Fleet
from serving.release.adapters import is_of, keep_warm, place
from serving.release.states import Traffic
from tests.builders import make_service
from tests.serving.conftest import Server, adapters, base, running, start
from tests.serving.test_verify import greedy_probes

__all__ = ["adapters", "base", "start"]
Start = Callable[..., Server]
BASE = ArmRoute(version="base", model="base")
NAMES = [f"sql-{digit * 12}" for digit in "1234"]
OTHER = "sql-pro-" + "a" * 12
TASK = Task(
    task="sql",
    base_model="base",
    upstream="local",
    graders=({"type": "feedback", "name": "thumbs"},),
)


def no_registry() -> Any:
    raise AssertionError("everything is on this machine")


def stock(
    folder: Path, base: Path, adapter: Path, addresses: list[str], **settings: Any
) -> Service:
    """A service whose adapter folders all hold this adapter, with its probes."""
    upstream = {"base_url": addresses[0], "replicas": addresses[1:], "kind": "vllm", **settings}
    service = make_service(folder, upstreams={"local": upstream})
    own, plain = greedy_probes(base, adapter), greedy_probes(base, None)
    for name in (*NAMES, OTHER):
        home = service.data_path / "adapters" / name
        home.parent.mkdir(parents=True, exist_ok=True)
        home.mkdir()
        for file in adapter.iterdir():
            (home / file.name).write_bytes(file.read_bytes())
        (home / "probes.json").write_text(json.dumps(own))
        (home / "base_probes.json").write_text(json.dumps(plain))
    return service


def arm(number: int) -> ArmRoute:
    return ArmRoute(version=str(number), model=NAMES[number])


def load(service: Service, *names: str) -> None:
    with Fleet(service.upstreams["local"]) as fleet:
        for name in names:
            fleet.load(name, service.data_path / "adapters" / name)


def loaded(server: Server) -> list[str]:
    """Longest loaded first."""
    with Fleet(Upstream(base_url=server.address, kind="vllm")) as fleet:
        return fleet.loaded_on(server.address)


def test_a_name_belongs_to_exactly_one_task() -> None:
    assert is_of("sql", NAMES[0])
    assert is_of("sql-pro", OTHER)
    assert not is_of("sql", OTHER)
    assert not is_of("sql", "sql-base")


def test_what_no_arm_needs_is_unloaded_and_another_tasks_adapter_never(
    tmp_path: Path, base: Path, start: Start, adapters: dict[str, Path]
) -> None:
    server = start()
    service = stock(tmp_path, base, adapters["first"], [server.address])
    load(service, NAMES[0], OTHER, NAMES[1])
    traffic = Traffic(champion=arm(1))
    assert place(service, TASK, traffic, arm(2), no_registry) is None
    assert loaded(server) == [OTHER, NAMES[1], NAMES[2]]


def test_with_slots_counted_the_longest_loaded_goes_and_only_as_many_as_must(
    tmp_path: Path, base: Path, start: Start, adapters: dict[str, Path]
) -> None:
    server = start(max_adapters=3)
    service = stock(tmp_path, base, adapters["first"], [server.address], max_adapters=3)
    load(service, NAMES[1], NAMES[0], NAMES[2])
    assert place(service, TASK, Traffic(champion=BASE), arm(3), no_registry) is None
    assert loaded(server) == [NAMES[0], NAMES[2], NAMES[3]]


def test_a_former_champion_keeps_its_slot_longer_the_later_it_was_champion(
    tmp_path: Path, base: Path, start: Start, adapters: dict[str, Path]
) -> None:
    server = start(max_adapters=3)
    service = stock(tmp_path, base, adapters["first"], [server.address], max_adapters=3)
    load(service, NAMES[1], NAMES[0], NAMES[2])
    traffic = Traffic(champion=BASE, last_good=BASE, former=(arm(1), arm(0)))
    # Longest loaded is 1; it was champion after 0, and 2 never was.
    assert place(service, TASK, traffic, arm(3), no_registry) is None
    assert loaded(server) == [NAMES[1], NAMES[0], NAMES[3]]
    assert place(service, TASK, traffic, arm(2), no_registry) is None
    assert loaded(server) == [NAMES[1], NAMES[0], NAMES[2]]


def test_a_version_that_does_not_verify_leaves_every_replica(
    tmp_path: Path, base: Path, start: Start, adapters: dict[str, Path]
) -> None:
    one, two = start(), start()
    service = stock(tmp_path, base, adapters["first"], [one.address, two.address])
    wrong = service.data_path / "adapters" / NAMES[0]
    for file in adapters["third"].iterdir():
        (wrong / file.name).write_bytes(file.read_bytes())
    problem = place(service, TASK, Traffic(champion=BASE), arm(0), no_registry)
    assert problem is not None
    assert "does not verify" in problem
    assert (loaded(one), loaded(two)) == ([], [])


def test_a_restarted_replica_gets_its_adapters_back_verified(
    tmp_path: Path,
    base: Path,
    start: Start,
    adapters: dict[str, Path],
    free_port: Callable[[], int],
) -> None:
    steady, port = start(), free_port()
    address = f"http://127.0.0.1:{port}/v1"
    service = stock(tmp_path, base, adapters["first"], [steady.address, address])
    traffic = Traffic(champion=arm(1), last_good=BASE)
    with running(base, port=port):
        assert place(service, TASK, Traffic(champion=BASE), arm(1), no_registry) is None
    with running(base, port=port) as again:
        keep_warm(service, TASK, traffic, no_registry)
        assert loaded(again) == [NAMES[1]]
    # What it would get back is another adapter by now: it must not answer under that name.
    folder = service.data_path / "adapters" / NAMES[1]
    for file in adapters["third"].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    with running(base, port=port) as again:
        with pytest.raises(ServingError, match="does not verify"):
            keep_warm(service, TASK, traffic, no_registry)
        assert loaded(again) == []
    assert loaded(steady) == [NAMES[1]]


def test_an_upstream_that_cannot_load_adapters_is_said(tmp_path: Path) -> None:
    upstream = {"base_url": "http://127.0.0.1:9/v1", "kind": "openai"}
    service = make_service(tmp_path, upstreams={"local": upstream})
    problem = place(service, TASK, Traffic(champion=BASE), arm(0), no_registry)
    assert problem == "upstream local is of kind openai: it cannot load adapters"

"""`routes.json` written by a hostile or broken hand: nothing of it reaches a request."""

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from everlearn.task import load_tasks
from gateway.routes import MAX_BYTES, ArmRoute, Routes, TaskRoute, read_routes, write_routes
from gateway.table import RouteTable
from tests.builders import make_service
from tests.gateway.door import write_task

GOOD = {"version": "1", "model": "m"}


def table_file(folder: Path, arm: dict[str, Any], **route: Any) -> Path:
    path = folder / "routes.json"
    path.write_bytes(msgspec.json.encode({"tasks": {"t": {"champion": {**GOOD, **arm}, **route}}}))
    return path


@pytest.mark.parametrize(
    ("arm", "route"),
    [
        ({"version": ""}, {}),
        ({"version": "1\r\nset-cookie: a=b"}, {}),
        ({"version": "1\n"}, {}),
        ({"version": "x" * 257}, {}),
        ({"version": "grün"}, {}),
        ({"model": ""}, {}),
        ({"model": "a\0b"}, {}),
        ({"model": "m" * 513}, {}),
        ({"adapter_digest": "a b"}, {}),
        ({"upstream": "\n"}, {}),
        ({}, {"challenger_share": 1.5}),
        ({}, {"challenger_share": -0.1}),
        ({}, {"holdback_share": 2}),
        ({}, {"shadow_share": "1"}),
        ({}, {"release": "r" * 600}),
    ],
)
def test_a_value_out_of_bounds_is_refused(
    tmp_path: Path, arm: dict[str, Any], route: dict[str, Any]
) -> None:
    with pytest.raises(msgspec.ValidationError):
        read_routes(table_file(tmp_path, arm, **route))


def test_what_names_people_give_models_is_allowed(tmp_path: Path) -> None:
    names = {"model": "meta-llama/Llama-3 größe:latest", "version": "v1.2_a-b"}
    assert read_routes(table_file(tmp_path, names)).tasks["t"].champion.model == names["model"]


def test_a_pipe_and_a_huge_file_are_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "routes.json"
    os.mkfifo(path)
    with pytest.raises(ValueError, match="regular"):
        read_routes(path)
    path.unlink()
    path.write_bytes(b" " * (MAX_BYTES + 1))
    with pytest.raises(ValueError, match="larger"):
        read_routes(path)
    path.unlink()
    path.mkdir()
    with pytest.raises((ValueError, OSError)):
        read_routes(path)


def service_with_task(tmp_path: Path) -> Any:
    service = make_service(tmp_path, upstreams={"local": {"base_url": "http://127.0.0.1:1/v1"}})
    write_task(tmp_path)
    return service


def test_a_start_with_broken_routes_goes_on_with_the_last_good_ones(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = service_with_task(tmp_path)
    tasks = load_tasks(service)
    route = TaskRoute(champion=ArmRoute(version="7", model="seven"))
    write_routes(service.routes_path, Routes(generation=5, tasks={"text2sql": route}))
    assert RouteTable(service.routes_path, tasks, {"local"}).generation == 5
    service.routes_path.write_bytes(b"\0\0not json")
    table = RouteTable(service.routes_path, tasks, {"local"})
    assert table.routes["text2sql"].champion.version == "7"
    assert table.error is not None
    assert "last good table, generation 5" in table.error
    assert "last good table" in caplog.text
    write_routes(service.routes_path, Routes(generation=6))
    assert table.refresh()
    assert [table.error, table.routes["text2sql"].champion.version] == [None, "base"]


def test_an_upstream_that_the_config_does_not_know_keeps_the_table(tmp_path: Path) -> None:
    service = service_with_task(tmp_path)
    table = RouteTable(service.routes_path, load_tasks(service), {"local"})
    route = TaskRoute(champion=ArmRoute(version="7", model="seven", upstream="nowhere"))
    write_routes(service.routes_path, Routes(generation=5, tasks={"text2sql": route}))
    assert not table.refresh()
    assert table.error is not None
    assert "'nowhere' is not one of the config: local" in table.error
    assert table.routes["text2sql"].champion.version == "base"

"""Task files: a broken one stops its own task only, what is odd is said, new ones are taken up."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
import yaml

from everlearn.config import load
from everlearn.errors import ConfigError, NotFound
from everlearn.task import load_task, load_tasks, read_tasks, running_tasks, tasks_stamp
from examples.text2sql import loop
from gateway.folder import TaskFolder
from gateway.table import RouteTable
from tests.builders import make_service
from tests.everlearn.test_config import TASK, check, write_task


def test_a_broken_file_stops_its_own_task_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = make_service(tmp_path)
    write_task(tmp_path)
    write_task(tmp_path, "sales.yaml", task="sales", upstream="nobody")
    (tmp_path / "tasks" / "torn.yaml").write_text("task: [\n")
    (tmp_path / "tasks" / "binary.yaml").write_bytes(b"task: \xff\xfe")
    found = read_tasks(service)
    assert set(found.tasks) == {"support"}
    assert [line.split(":")[0].rsplit("/", 1)[1] for line in found.problems] == [
        *("binary.yaml", "sales.yaml", "torn.yaml"),
    ]
    assert load_task(service, "support").task == "support"
    with pytest.raises(ConfigError, match="not an upstream of the config"):
        load_task(service, "sales")
    with pytest.raises(ConfigError, match=r"torn\.yaml"):
        load_tasks(service)
    with caplog.at_level(logging.ERROR):
        assert set(running_tasks(service)) == {"support"}
    assert len(caplog.records) == 3
    done = check(tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 3


def test_a_folder_that_is_not_there_and_a_yml_file_are_said(tmp_path: Path) -> None:
    service = make_service(tmp_path)
    (tmp_path / "tasks" / "support.yml").write_text(yaml.safe_dump(TASK))
    with pytest.raises(NotFound, match=r"support\.yml is not read: name it support\.yaml"):
        load_task(service, "support")
    done = check(tmp_path)
    assert done.returncode == 0
    assert "support.yml is not read" in done.stderr
    elsewhere = make_service(tmp_path, tasks_dir="nowhere")
    with pytest.raises(NotFound, match="nowhere is no folder: there are no tasks"):
        load_task(elsewhere, "support")


def test_an_upstream_that_cannot_load_adapters_is_said(tmp_path: Path) -> None:
    openai, vllm = ({"base_url": "http://127.0.0.1:9/v1", "kind": k} for k in ("openai", "vllm"))
    make_service(tmp_path, upstreams={"local": openai})
    write_task(tmp_path)
    done = check(tmp_path)
    assert done.returncode == 0
    assert (
        "task support: upstream 'local' is of kind openai, which loads no adapters" in done.stderr
    )
    make_service(tmp_path, upstreams={"local": vllm})
    assert "adapters" not in check(tmp_path).stderr


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"gateway": {"prot": "hunter2"}}, "gateway.prot: unknown key; did you mean 'port'?"),
        (
            {"upstreams": {"a": {"base_url": "http://x", "api_key": "hunter2"}}},
            "upstreams.a.api_key: unknown key; did you mean 'api_key_env'?",
        ),
        ({"zzzzzz": "hunter2"}, "zzzzzz: unknown key; there are: "),
    ],
)
def test_an_unknown_key_names_the_nearest_and_never_its_value(
    tmp_path: Path, content: dict[str, Any], said: str
) -> None:
    (tmp_path / "everlearn.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "everlearn.yaml")
    assert said in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_an_unknown_key_of_a_grader_is_found_behind_its_type(tmp_path: Path) -> None:
    service = make_service(tmp_path)
    grader = {"type": "string_check", "name": "g", "refrence": "hunter2"}
    write_task(tmp_path, graders=[grader], train={"lora": {"aplha": 1}})
    said = "\n".join(read_tasks(service).problems)
    assert "graders.0.string_check.refrence: unknown key; did you mean 'reference'?" in said
    assert "train.lora.aplha: unknown key; did you mean 'alpha'?" in said
    assert "hunter2" not in said


def test_what_is_not_yaml_is_told_with_line_and_column(tmp_path: Path) -> None:
    (tmp_path / "everlearn.yaml").write_text("gateway:\n  port: 8000\n workers: 2\n")
    with pytest.raises(ConfigError, match=r"everlearn\.yaml: line 3, column 2: not YAML"):
        load(tmp_path / "everlearn.yaml")


@pytest.mark.parametrize("form", ["list", "text", "a:1,b:2", '["a:1", "b:2"]'])
def test_brokers_are_a_list_or_a_text(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers: dict[str, Any] = {"list": ["a:1", "b:2"], "text": "a:1, b:2"}
    if form not in servers:
        monkeypatch.setenv("EVERLEARN_BUS__BOOTSTRAP_SERVERS", form)
    bus = {"bootstrap_servers": servers[form]} if form in servers else {}
    assert make_service(tmp_path, bus=bus).bus.bootstrap_servers == ("a:1", "b:2")


@pytest.mark.anyio
async def test_a_gateway_takes_up_a_task_file_that_comes(tmp_path: Path) -> None:
    service = make_service(tmp_path)
    write_task(tmp_path)
    tasks = load_tasks(service)
    table = RouteTable(service.routes_path, tasks)
    folder = TaskFolder(service, tasks, table)
    before = tasks_stamp(service)
    write_task(tmp_path, "sales.yaml", task="sales")
    (tmp_path / "tasks" / "torn.yaml").write_text("task: [\n")
    assert tasks_stamp(service) != before
    folder.look()
    while "sales" not in tasks:
        await asyncio.sleep(0.01)
    assert set(table.routes) == {"support", "sales"}


def test_a_demo_keeps_to_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    somebodys = tmp_path / "data"
    somebodys.mkdir()
    (somebodys / "lake").mkdir()
    monkeypatch.delenv("EVERLEARN_DATA_DIR", raising=False)
    for _ in range(3):
        own = loop.own_folder(somebodys)
        assert own == somebodys / "demo"
        loop.move_aside(own, lambda text: None)
    assert {path.name for path in somebodys.iterdir()} == {"lake", "demo", "demo-previous"}
    monkeypatch.setenv("EVERLEARN_DATA_DIR", str(somebodys))
    assert loop.own_folder(somebodys) == somebodys / "demo"
    assert loop.own_folder(tmp_path / "fresh") == tmp_path / "fresh"
    assert loop.own_folder(somebodys / "demo") == somebodys / "demo"

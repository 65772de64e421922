"""docker-compose.yml against the compose schema, the config, the images and `everlearn up`."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from everlearn.config import Service, load
from everlearn.supervise import Process, processes

ROOT = Path(__file__).parents[2]
OURS = {"gateway": "gateway", "shipper": "ship", "collector": "collect"}


def resolved() -> dict[str, Any]:
    """The file with its required variables set."""
    text = (ROOT / "docker-compose.yml").read_text()
    content: dict[str, Any] = yaml.safe_load(re.sub(r"\$\{\w+:\?\}", "secret", text))
    return content


def environment(name: str) -> dict[str, str]:
    values: dict[str, str] = resolved()["services"][name]["environment"]
    return values


@pytest.fixture
def in_container(monkeypatch: pytest.MonkeyPatch) -> Service:
    """The config as the containers resolve it."""
    for name, value in environment("collector").items():
        monkeypatch.setenv(name, value)
    return load(ROOT / "deploy" / "everlearn.yaml")


def test_the_file_follows_the_compose_schema() -> None:
    schema = json.loads((ROOT / "tests" / "deploy" / "compose_spec.json").read_text())
    jsonschema.Draft201909Validator(schema).validate(resolved())


def test_secrets_come_from_the_environment_only() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    for line in text.splitlines():
        if re.search(r"PASSWORD:|SECRET\w*:|password=", line):
            assert re.search(r"\$\{(POSTGRES_PASSWORD|S3_SECRET):\?\}", line), line


def test_every_image_is_pinned_and_every_service_has_a_health_check() -> None:
    for name, service in resolved()["services"].items():
        assert service["healthcheck"]["test"], name
        if name not in OURS:
            assert re.search(r":v?\d+\.\d+", service["image"]), service["image"]


def test_what_is_waited_for_exists() -> None:
    services = resolved()["services"]
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)


def test_each_of_our_targets_is_in_the_dockerfile_and_not_root() -> None:
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    stages = {
        stage.split("AS ", 1)[1].split()[0]: stage
        for stage in re.split(r"^FROM ", text, flags=re.M)[1:]
    }
    for name in OURS:
        assert "USER 10001" in stages[resolved()["services"][name]["build"]["target"]]


def test_the_environment_is_one_config_that_the_product_accepts(in_container: Service) -> None:
    assert in_container.bus.kind == "kafka"
    assert in_container.bus.bootstrap_servers == ("kafka:9092",)
    assert in_container.lake.catalog.startswith("postgres:host=postgres ")
    assert (in_container.lake.data_path, in_container.lake.s3_use_ssl) == ("s3://lake/data", False)
    assert in_container.data_path == Path("/var/lib/everlearn")


def by_name(service: Service) -> dict[str, Process]:
    rows = processes(service, Path("/etc/everlearn/everlearn.yaml"), "full")
    return {row.name: row for row in rows}


def test_up_starts_the_same_processes_over_the_same_bus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "everlearn.yaml").write_text("{}")
    started = by_name(load(tmp_path / "everlearn.yaml"))
    for name, verb in OURS.items():
        compose = resolved()["services"][name]["command"]
        own = list(started[name].command)
        assert own[own.index("everlearn") :][:2] == ["everlearn", verb]
        assert own[own.index("everlearn") :] == compose
        kind = "EVERLEARN_BUS__KIND"
        assert started[name].environment[kind] == environment(name)[kind] == "kafka"
    assert {"kafka", "mlflow"} <= set(started) & set(resolved()["services"])

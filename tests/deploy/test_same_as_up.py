"""docker-compose.yml and `everlearn up --stack full` start the same processes in the same way.

No Docker engine is needed: what differs is named here, and anything else that differs is a failure.
"""

import os
from pathlib import Path
from typing import Any

import pytest

from everlearn import broker
from everlearn.config import load
from everlearn.process import Process
from everlearn.stack import processes
from everlearn.supervise import STOP_SECONDS
from tests.deploy.compose import OURS, ROOT, environment, services

CONFIG = "/etc/everlearn/everlearn.yaml"
ONLY_IN_COMPOSE = {"postgres", "s3", "prometheus", "grafana"}
"""On one machine the lake's catalog is SQLite, its files are in a folder, and the console is what
people look at."""
ONLY_IN_UP = {"releases", "console", "airflow", "airflow-scheduler", "airflow-dags"}
"""They act for an operator, where the demo and the quickstart run."""
PLACES = {
    "bus.bootstrap_servers",
    "bus.metrics_port",
    "collector.metrics_port",
    "gateway.host",
    "gateway.require_key",
    "lake.catalog",
    "lake.data_path",
    "lake.s3_endpoint",
    "lake.s3_use_ssl",
    "state.url",
}
"""Settings that a container must be told and one machine need not."""
BROKER_PLACES = {
    "listeners",
    "advertised.listeners",
    "controller.quorum.voters",
    "log.dirs",
}


@pytest.fixture(autouse=True)
def no_settings_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("EVERLEARN_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def started(tmp_path: Path) -> dict[str, Process]:
    """What `up --stack full` starts, by name."""
    (tmp_path / "everlearn.yaml").write_text("{}")
    rows = processes(load(tmp_path / "everlearn.yaml"), Path(CONFIG), "full")
    return {row.name: row for row in rows}


def ours(values: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in values.items() if name.startswith("EVERLEARN_")}


def settings(values: dict[str, str]) -> dict[str, Any]:
    """Every setting by its path, as a process with these variables resolves the config."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        return flat(load(ROOT / "deploy" / "everlearn.yaml").model_dump())


def flat(tree: dict[str, Any], above: str = "") -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for name, value in tree.items():
        path = f"{above}{name}"
        rows |= flat(value, f"{path}.") if isinstance(value, dict) else {path: value}
    return rows


def test_the_same_processes_run(started: dict[str, Process]) -> None:
    assert set(services()) - set(started) == ONLY_IN_COMPOSE
    assert set(started) - set(services()) == ONLY_IN_UP
    assert {name for name, one in services().items() if "build" in one} == set(OURS)


@pytest.mark.parametrize("name", OURS)
def test_the_same_verbs_with_the_same_arguments(started: dict[str, Process], name: str) -> None:
    own = list(started[name].command)
    assert own[own.index("everlearn") :] == services()[name]["command"]
    assert own[own.index("everlearn") :] == ["everlearn", OURS[name], "--config", CONFIG]


@pytest.mark.parametrize("name", OURS)
def test_the_same_settings_but_for_places(started: dict[str, Process], name: str) -> None:
    here, there = ours(started[name].environment), ours(environment(name))
    assert here, "up tells its processes that the bus is Kafka"
    assert here.items() <= there.items()
    told = {variable.removeprefix("EVERLEARN_").lower() for variable in set(there) - set(here)}
    assert {name.replace("__", ".") for name in told - {"config"}} == PLACES
    by_up, by_compose = settings(here), settings(there)
    assert {path for path in by_compose if by_compose[path] != by_up.get(path)} == PLACES
    assert by_up["bus.kind"] == by_compose["bus.kind"] == "kafka"


def test_all_of_ours_share_one_environment() -> None:
    assert environment("gateway") == environment("shipper") == environment("collector")


def test_health_is_asked_where_the_processes_answer(started: dict[str, Process]) -> None:
    resolved = settings(ours(environment("gateway")))
    ready = started["gateway"].ready or ""
    ports = {
        "gateway": f"{resolved['gateway.port']}{ready[ready.rindex('/') :]}",
        "shipper": str(resolved["bus.metrics_port"]),
        "collector": str(resolved["collector.metrics_port"]),
    }
    for name, port in ports.items():
        assert f"http://localhost:{port}'" in services()[name]["healthcheck"]["test"][-1]
    health = started["mlflow"].ready or ""
    assert health.endswith(":5000/health")
    assert "localhost:5000/health" in services()["mlflow"]["healthcheck"]["test"][-1]
    assert resolved["mlflow.tracking_uri"] == "http://mlflow:5000"


def test_they_are_given_as_long_to_stop() -> None:
    for name in OURS:
        assert services()[name]["stop_grace_period"] == f"{STOP_SECONDS}s"


def test_the_broker_is_set_up_alike(tmp_path: Path) -> None:
    here = dict(line.split("=", 1) for line in broker.settings(tmp_path, 9092, 9093))
    there = {
        name.removeprefix("KAFKA_").lower().replace("_", "."): value
        for name, value in environment("kafka").items()
    }
    both = here.keys() & there.keys()
    assert {name for name in both if here[name] != there[name]} == BROKER_PLACES
    assert {"process.roles", "node.id", "auto.create.topics.enable"} <= both
    assert there["advertised.listeners"] == "PLAINTEXT://kafka:9092"


def test_mlflow_keeps_its_runs_and_artifacts_alike(started: dict[str, Process]) -> None:
    here, there = list(started["mlflow"].command), services()["mlflow"]["command"].split()
    here = here[here.index("mlflow") :]
    assert here[:2] == there[:2] == ["mlflow", "server"]
    assert here[here.index("--port") + 1] == there[there.index("--port") + 1] == "5000"
    for option, kind in (("--backend-store-uri", "sqlite:///"), ("--artifacts-destination", "/")):
        assert here[here.index(option) + 1].startswith(kind)
        assert there[there.index(option) + 1].startswith(kind)

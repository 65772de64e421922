"""Dashboard and alerts ask for what the processes export, by name and by label."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.parser import text_string_to_metric_families

import collector.process as collector_process
import serving.release.metrics as release_metrics
from console.app import create_app
from everlearn.config import load
from everlearn.metrics import DataFolder
from gateway.metrics import COUNTERS, HISTOGRAMS
from serving.local.metrics import Metrics as ModelServer
from tests.builders import make_service
from tests.deploy.compose import CONFIG, ROOT, services
from tests.gateway.backend import backend
from tests.gateway.door import door

pytestmark = pytest.mark.anyio

ENDS = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
NAME = re.compile(r"\b(?:everlearn_|gen_ai_(?:server|client)_|vllm:)\w+")


def test_it_is_a_dashboard_whose_panels_do_not_overlap() -> None:
    board = json.loads((ROOT / "deploy" / "grafana" / "everlearn.json").read_text())
    places = [tuple(panel["gridPos"].values()) for panel in board["panels"]]
    assert len(set(places)) == len({panel["id"] for panel in board["panels"]}) == len(places) > 9
    for height, width, left, _ in places:
        assert left + width <= 24
        assert height > 0


async def test_what_is_asked_for_is_exported(tmp_path: Path) -> None:
    async with backend() as upstream, door(tmp_path, upstream.url) as gate:
        await gate.chat()
        texts = [(await gate.client.get("/metrics")).text]
    assert collector_process.ROWS is not None
    assert release_metrics.ROUND is not None
    texts.append(generate_latest(REGISTRY).decode())
    console = create_app(make_service(tmp_path / "console")).state.metrics.registry
    console.register(DataFolder(tmp_path))
    texts.append(generate_latest(console).decode())
    engine: Any = SimpleNamespace(load=SimpleNamespace(running=0, waiting=0))
    texts.append(generate_latest(ModelServer(engine, "base").registry).decode())
    there = {name for text in texts for name in samples(text)}
    asked = {name for query in queries() for name in NAME.findall(query)}
    assert len(asked) > 40
    assert asked - there == set()


def samples(text: str) -> Iterator[str]:
    for family in text_string_to_metric_families(text):
        for end in ENDS.get(family.type, ()):
            yield family.name + end


def test_what_is_grouped_by_is_a_label_of_the_metric() -> None:
    labels: dict[str, set[str]] = {name: set(each[1]) for name, each in COUNTERS.items()}
    labels |= {name: {*each[1], "le"} for name, each in HISTOGRAMS.items()}
    seen = 0
    for query in queries():
        for by, name in re.findall(r"by \(([^)]+)\) \((?:rate|increase)\((\w+)", query):
            known = labels.get(re.sub(r"_(total|bucket|sum|count)$", "", name))
            if known is not None:
                seen += 1
                assert {each.strip() for each in by.split(",")} <= known, query
    assert seen > 5


def queries() -> list[str]:
    board = json.loads((ROOT / "deploy" / "grafana" / "everlearn.json").read_text())
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    groups = yaml.safe_load((ROOT / "deploy" / "alerts.yml").read_text())["groups"]
    return asked + [rule["expr"] for group in groups for rule in group["rules"]]


def test_prometheus_scrapes_where_the_processes_answer() -> None:
    content = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text())
    targets = {
        job["job_name"]: job["static_configs"][0]["targets"] for job in content["scrape_configs"]
    }
    service = load(CONFIG)
    ports = {
        "shipper": service.bus.metrics_port,
        "collector": service.collector.metrics_port,
        "releases": service.releases.metrics_port,
        "console": service.console.metrics_port,
    }
    for name, port in ports.items():
        assert targets[name] == [f"{name}:{port}"]
    assert targets["model server"] == [f"model-server:{service.model_server.port}"]
    assert targets["gateway"] == ["gateway:8000"]
    assert content["rule_files"] == ["alerts.yml"]


def test_compose_brings_what_the_dashboard_needs() -> None:
    found = services()
    for name in ("prometheus", "grafana"):
        for mount in found[name]["volumes"]:
            here = mount.split(":")[0]
            assert not here.startswith(".") or (ROOT / here).exists(), mount
    place = ROOT / "deploy" / "grafana"
    sources = yaml.safe_load((place / "provisioning/datasources/prometheus.yml").read_text())
    board = json.loads((place / "everlearn.json").read_text())
    uids = {panel["datasource"]["uid"] for panel in board["panels"]}
    assert uids == {source["uid"] for source in sources["datasources"]}
    assert sources["datasources"][0]["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((place / "provisioning/dashboards/everlearn.yml").read_text())[
        "providers"
    ]
    mounted = [mount.split(":")[1] for mount in found["grafana"]["volumes"]]
    assert f"{provider['options']['path']}/everlearn.json" in mounted
    scraped = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text())["scrape_configs"]
    hosts = {job["static_configs"][0]["targets"][0].split(":")[0] for job in scraped}
    assert hosts <= {*found}

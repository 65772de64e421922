"""docker-compose.yml against the compose schema, the config and the images.

`compose_spec.json` is the schema of the Compose Specification as compose-go v2.16.2 embeds it
(Apache-2.0, Copyright 2020 The Compose Specification Authors).
"""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from everlearn.config import Service, load
from tests.deploy.compose import OURS, ROOT, environment, resolved, services


@pytest.fixture
def in_container(monkeypatch: pytest.MonkeyPatch) -> Service:
    """The config as the containers resolve it."""
    for name, value in environment("collector").items():
        monkeypatch.setenv(name, value)
    return load(ROOT / "deploy" / "everlearn.yaml")


def validate(content: dict[str, Any]) -> None:
    schema = json.loads((ROOT / "tests" / "deploy" / "compose_spec.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(content)


def test_the_file_follows_the_compose_schema() -> None:
    validate(resolved())


@pytest.mark.parametrize(
    ("service", "key", "value"),
    [
        ("gateway", "healtcheck", {}),
        ("kafka", "restart", True),
        ("collector", "depends_on", {"kafka": {"condition": "service_there"}}),
    ],
)
def test_the_schema_refuses_what_compose_would(service: str, key: str, value: Any) -> None:
    content = resolved()
    content["services"][service][key] = value
    with pytest.raises(jsonschema.ValidationError):
        validate(content)


def test_secrets_come_from_the_environment_only() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    for line in text.splitlines():
        if re.search(r"PASSWORD:|SECRET\w*:|password=", line):
            assert re.search(r"\$\{(POSTGRES_PASSWORD|S3_SECRET):\?\}", line), line


def test_every_image_is_pinned_and_every_service_has_a_health_check() -> None:
    for name, service in services().items():
        assert service["healthcheck"]["test"], name
        if name not in OURS:
            assert re.search(r":v?\d+\.\d+", service["image"]), service["image"]


def test_what_is_waited_for_exists() -> None:
    for service in services().values():
        assert set(service.get("depends_on", {})) <= set(services())


def test_each_of_our_targets_is_in_the_dockerfile_and_not_root() -> None:
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    stages = {
        stage.split("AS ", 1)[1].split()[0]: stage
        for stage in re.split(r"^FROM ", text, flags=re.M)[1:]
    }
    for name in OURS:
        assert "USER 10001" in stages[services()[name]["build"]["target"]]


def test_the_environment_is_one_config_that_the_product_accepts(in_container: Service) -> None:
    assert in_container.bus.kind == "kafka"
    assert in_container.bus.bootstrap_servers == ("kafka:9092",)
    assert in_container.lake.catalog.startswith("postgres:host=postgres ")
    assert (in_container.lake.data_path, in_container.lake.s3_use_ssl) == ("s3://lake/data", False)
    assert in_container.data_path == Path("/var/lib/everlearn")

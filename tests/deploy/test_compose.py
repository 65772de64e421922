"""docker-compose.yml against the compose schema, the config and the images.

`compose_spec.json` is the schema of the Compose Specification as compose-go v2.16.2 embeds it
(Apache-2.0, Copyright 2020 The Compose Specification Authors).
"""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from everlearn.cli import group
from tests.deploy.compose import ROOT, environment, images, of_everlearn, ours, resolved, services


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
        if re.search(r"PASSWORD\w*:|SECRET\w*:|password=|://\w+:[^/0-9]", line):
            assert re.search(r"\$\{(POSTGRES_PASSWORD|S3_SECRET):\?\}", line), line
    assert not re.search(r"password|secret:", (ROOT / "deploy" / "everlearn.yaml").read_text())


def test_every_image_is_pinned() -> None:
    for service in services().values():
        assert "build" in service or re.search(r":v?\d+\.\d+", service["image"]), service
    built = "".join(file.read_text() for file in (ROOT / "deploy").rglob("Dockerfile"))
    for image in re.findall(r"^FROM (\S+:\S+)", built, re.M):
        assert re.search(r":v?\d+\.\d+\.\d+", image), image


def test_every_service_has_a_health_check_but_what_runs_once() -> None:
    for name, service in services().items():
        if service["healthcheck"] == {"disable": True}:
            assert (service["restart"], service["profiles"]) == ("no", ["tools"]), name
        else:
            assert service["healthcheck"]["test"], name


def test_what_is_waited_for_and_mounted_exists() -> None:
    volumes = resolved()["volumes"]
    for name, service in services().items():
        assert set(service.get("depends_on", {})) <= set(services())
        for mount in service.get("volumes", ()):
            here = mount.split(":")[0]
            assert (ROOT / here).exists() if here.startswith("./") else here in volumes, (
                name,
                here,
            )


@pytest.mark.parametrize("name", ours())
def test_our_images_run_as_nobody_and_may_gain_nothing(name: str) -> None:
    service = services()[name]
    text = images()[service["build"]["target"]].text
    assert re.findall(r"^USER (.+)$", text, re.M)[-1].startswith("10001")
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", ours())
def test_only_this_machine_reaches_a_published_port(name: str) -> None:
    for port in services()[name].get("ports", ()):
        assert port.startswith("127.0.0.1:")


def test_the_product_accepts_the_config_and_the_tasks_that_are_mounted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`everlearn config check` with the environment and the files that each container sees."""
    (mounts,) = {tuple(one["volumes"]) for one in ours().values()}
    (values,) = {tuple(of_everlearn(environment(name)).items()) for name in ours()}
    for mount in mounts:
        here, there = mount.split(":")[:2]
        place = tmp_path / there.removeprefix("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / here).is_file():
            shutil.copy(ROOT / here, place)
        elif here.startswith("./"):
            place.symlink_to(ROOT / here)
    for name in os.environ.keys() & of_everlearn(dict(os.environ)).keys():
        monkeypatch.delenv(name)
    for name, value in values:
        monkeypatch.setenv(name, value)
    config = tmp_path / environment("gateway")["EVERLEARN_CONFIG"].removeprefix("/")
    done = CliRunner().invoke(group, ["config", "check", str(config)])
    assert done.exit_code == 0, done.output
    found = yaml.safe_load(done.output)
    assert found["tasks"].keys() == {"text2sql"}
    assert found["data_dir"] == "/var/lib/everlearn"

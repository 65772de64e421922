"""deploy/helm as Helm renders it, with what people may say otherwise."""

import json
import os
import shutil
import subprocess
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

from tests.deploy.compose import ROOT

CHART = ROOT / "deploy" / "helm"
TASK = ROOT / "examples" / "text2sql" / "tasks" / "text2sql.yaml"
WITH_TASK = ("--set-file", f"tasks.text2sql={TASK}")
KUBERNETES = ("1.29", kubernetes_validate.latest_version())
"""The oldest with sidecars that end after the others, and the newest whose schemas there are."""


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The Helm that deploy/install-helm.sh builds, else one on PATH."""
    path = f"{Path.home() / 'go' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    program = shutil.which("helm", path=path)
    assert program is not None, "no helm: deploy/install-helm.sh builds it"
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


@cache
def _parsed(name: str, switches: tuple[str, ...]) -> list[dict[str, Any]]:
    done = helm("template", name, str(CHART), *switches)
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.load_all(done.stdout, yaml.CSafeLoader) if each]


def rendered(*switches: str, name: str = "everlearn") -> list[dict[str, Any]]:
    """Every object of a release of this name."""
    return deepcopy(_parsed(name, switches))


@cache
def _valid(text: str, version: str) -> None:
    kubernetes_validate.validate(json.loads(text), version, strict=True)


def validate(content: dict[str, Any]) -> None:
    """ValidationError unless Kubernetes takes it and drops nothing of it."""
    for version in KUBERNETES:
        _valid(json.dumps(content, sort_keys=True), version)


def named(name: str, *switches: str, kind: str | None = None) -> dict[str, Any]:
    """The one of this name (without the release's), where need be of this kind."""
    (found,) = (
        each
        for each in rendered(*switches)
        if each["metadata"]["name"] == f"everlearn-{name}" and kind in (None, each["kind"])
    )
    return found


def pods(*switches: str) -> dict[str, dict[str, Any]]:
    """The templates of pods by the name of the program."""
    found = {}
    for each in rendered(*switches):
        spec = each.get("spec", {})
        template = spec.get("jobTemplate", {}).get("spec", spec).get("template")
        if template is not None:
            found[template["metadata"]["labels"]["app.kubernetes.io/component"]] = template
    return found


def containers(*switches: str) -> dict[str, dict[str, Any]]:
    """Every container by its name, the sidecar among them."""
    found = {}
    for pod in pods(*switches).values():
        for each in (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]):
            found[each["name"]] = each
    return found

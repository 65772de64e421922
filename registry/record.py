"""Decision records: what was decided about a version, on which evidence, kept beside its run."""

import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from everlearn.config import Service
from everlearn.errors import NotFound
from registry.versions import ModelVersion, Registry, ask, connect, experiment_id

MAX_NAME = 250
"""Characters of a metric's name."""


def keep(registry: Registry, version: ModelVersion, name: str, record: dict[str, Any]) -> None:
    """Tags `NAME`, `NAME_reason` of the version and artifact `decisions/NAME.json` of its run.

    `record` has `phase` and `reason`; a later record of the same name replaces the tags and the
    artifact, the run's history keeps the times.
    """
    whole = {**record, "version": version.version, "decided_at": time.time()}
    if version.run_id is not None:
        ask(registry.client.log_dict, version.run_id, whole, f"decisions/{name}.json")
    tags = {name: str(record["phase"]), f"{name}_reason": str(record["reason"])}
    registry.tag(version.task, version.version, **tags)


def artifact(registry: Registry, version: ModelVersion, name: str) -> bytes:
    """A file that the version's run kept; NotFound if it has none of that name."""
    if version.run_id is None:
        raise NotFound(f"version {version.version} of {version.task} has no run, so no {name}")
    listed = ask(registry.client.list_artifacts, version.run_id, _folder(name))
    if name not in {entry.path for entry in listed}:
        raise NotFound(f"run {version.run_id} of version {version.version} kept no {name}")
    with TemporaryDirectory() as folder:
        path = ask(registry.client.download_artifacts, version.run_id, name, folder)
        return Path(path).read_bytes()


def read(registry: Registry, version: ModelVersion, name: str) -> dict[str, Any] | None:
    """The record kept under that name, or None."""
    try:
        return dict(json.loads(artifact(registry, version, f"decisions/{name}.json")))
    except NotFound:
        return None


def keep_report(service: Service, task: str, page: Path, metrics: Mapping[str, float]) -> str:
    """A page about a task, with its numbers, as an MLflow run of the task's experiment; its id."""
    client = connect(service)
    tags = {"everlearn.task": task, "everlearn.report": page.parent.parent.name}
    run = ask(client.create_run, experiment_id(client, task), tags=tags, run_name=page.stem)
    run_id = str(run.info.run_id)
    ask(client.log_artifact, run_id, str(page))
    for name, value in metrics.items():
        ask(client.log_metric, run_id, metric_name(name), value)
    ask(client.set_terminated, run_id)
    return run_id


def metric_name(name: str) -> str:
    """The name as MLflow takes it: people name graders as they like, and one name that it refuses
    costs all that is sent with it."""
    steps = [re.sub(r"[^\w. :-]", "_", step) for step in name[:MAX_NAME].split("/")]
    return "/".join(step for step in steps if step.strip(".")).lstrip(".") or "_"


def _folder(name: str) -> str | None:
    return name.rpartition("/")[0] or None

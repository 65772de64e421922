"""What MLflow's page of a version shows: its account as the description, with the way to run,
dataset, releases and DAG run, and a picture of its exam. What it shows is beside the point of who
asks: `describe` says that it could not, and raises nothing."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote, urlencode

from everlearn.config import Service
from everlearn.errors import EverlearnError
from everlearn.lake.store import Lake
from registry.gate import Evidence, Verdict
from registry.lineage import Account, account, lines
from registry.picture import draw_exam
from registry.versions import BASE, ModelVersion, Registry, ask

log = logging.getLogger(__name__)

MAX_CHARACTERS = 5000
"""Of a description, MLflow's limit."""
DAG_RUN = "everlearn.dag_run"


def describe(service: Service, registry: Registry, lake: Lake, task: str, version: str) -> None:
    """Write the description and tags to filter by. Again after whatever changed the version."""
    if version == BASE:
        return
    try:
        told = account(registry, lake, task, version)
        if told.run_id is not None:
            _write(service, registry, told)
    except EverlearnError as error:
        log.warning(
            "%s version %s: MLflow's page of it is not up to date: %s", task, version, error
        )


def picture(registry: Registry, version: ModelVersion, evidence: Evidence, told: Verdict) -> None:
    """The exam as `gate.png` of the version's run, where matplotlib is installed."""
    if version.run_id is None:
        return
    try:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "gate.png"
            draw_exam(path, evidence, told)
            ask(registry.client.log_artifact, version.run_id, str(path))
    except ImportError:
        log.info("no picture of the exam: matplotlib is not installed")
    except EverlearnError as error:
        log.warning("%s version %s: no picture: %s", version.task, version.version, error)


def scheduled(service: Service, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Tag of a run that Airflow began: the address of its DAG run; empty where a person did."""
    dag, run = (environment.get(f"AIRFLOW_CTX_DAG_{part}") for part in ("ID", "RUN_ID"))
    if not dag or not run:
        return {}
    at = service.airflow
    return {DAG_RUN: f"http://{at.host}:{at.port}/dags/{quote(dag)}/runs/{quote(run, safe='')}"}


def _write(service: Service, registry: Registry, told: Account) -> None:
    assert told.run_id is not None
    run = ask(registry.client.get_run, told.run_id)
    text = f"{lines(told)[0]}\n\n" + "\n".join(f"- {line}" for line in lines(told)[1:])
    ways = _ways(service, told, run.info.experiment_id, run.data.tags.get(DAG_RUN))
    shown = "\n".join(f"- [{name}]({address})" for name, address in ways.items())
    room = MAX_CHARACTERS - len(shown) - 2
    ask(registry.client.update_model_version, told.task, told.version, f"{text[:room]}\n\n{shown}")
    latest = told.releases[-1] if told.releases else None
    registry.tag(
        told.task,
        told.version,
        rows=str(sum(told.rows.get("train", {}).values())),
        units=str(told.units.get("train", 0)),
        replayed=told.parents["replayed"] or "",
        **({"release": str(latest["phase"] or latest["event"])} if latest else {}),
    )


def _ways(service: Service, told: Account, experiment: str, dag_run: str | None) -> dict[str, str]:
    """Where to look further, by what is there."""
    console = f"http://{service.console.host}:{service.console.port}"
    named = urlencode({"task": told.task, "version": told.version})
    found = {"run": f"#/experiments/{experiment}/runs/{told.run_id}"}
    found["version on the console"] = f"{console}/versions?{named}"
    for each in told.snapshots:
        name = str(each["snapshot_id"])
        found[f"dataset {name}"] = f"{console}/datasets/{quote(name, safe='')}"
    if told.releases:
        found["releases"] = f"{console}/releases/{quote(told.task, safe='')}"
    return found | ({"DAG run": dag_run} if dag_run else {})

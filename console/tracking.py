"""What MLflow knows of a task's runs and versions, over its REST API: its client would cost 200 MB
and seconds.

An MLflow that is away or slow costs a page a second at most, and the page says so.
"""

from typing import Any, NamedTuple

import httpx

from everlearn.config import Service

SECONDS = 1.0
RUNS, VERSIONS = 30, 1000
PREFIX = "everlearn."
UNUSABLE = (httpx.HTTPError, ValueError, KeyError, TypeError)
"""What an MLflow that is away, or something else at its address, comes to."""


class Run(NamedTuple):
    """One training."""

    run_id: str
    name: str
    status: str
    started_at: float
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]
    address: str


class Runs(NamedTuple):
    """The newest runs of a task, or why they are not known."""

    rows: list[Run]
    problem: str | None = None


class Version(NamedTuple):
    """One version of a task's model, as it was registered and what was decided of it."""

    version: str
    run_id: str
    made_at: float
    tags: dict[str, str]
    """Ours, without their prefix."""

    @property
    def snapshot(self) -> str:
        """The dataset that it learned from."""
        return self.tags.get("snapshot_id", "")


class Versions(NamedTuple):
    """The versions of a task, or why they are not known."""

    rows: list[Version]
    problem: str | None = None


def versions(service: Service, task: str) -> Versions:
    """The newest first."""
    asked: dict[str, Any] = {"filter": f"name='{task}'", "max_results": VERSIONS}
    try:
        with _client(service) as client:
            answer = client.get("model-versions/search", params=asked).raise_for_status().json()
            rows = [_version(each) for each in answer.get("model_versions", [])]
    except UNUSABLE as error:
        return Versions([], _away(service, error))
    return Versions(sorted(rows, key=lambda row: row.made_at, reverse=True))


def runs(service: Service, task: str) -> Runs:
    """The newest first."""
    try:
        with _client(service) as client:
            found = client.get("experiments/get-by-name", params={"experiment_name": task})
            if found.status_code == 404:
                return Runs([])
            experiment = found.raise_for_status().json()["experiment"]["experiment_id"]
            asked = {"experiment_ids": [experiment], "max_results": RUNS}
            answer = client.post("runs/search", json=asked).raise_for_status().json()
            place = f"{service.mlflow.tracking_uri}/#/experiments/{experiment}/runs"
            return Runs([_run(each, place) for each in answer.get("runs", [])])
    except UNUSABLE as error:
        return Runs([], _away(service, error))


def history(service: Service, run_id: str, metric: str) -> list[tuple[float, float]]:
    """A metric by step; nothing where MLflow does not say."""
    asked: dict[str, Any] = {"run_id": run_id, "metric_key": metric, "max_results": 2000}
    try:
        with _client(service) as client:
            answer = client.get("metrics/get-history", params=asked).raise_for_status().json()
            return [
                (float(each.get("step", 0)), float(each["value"]))
                for each in answer.get("metrics", [])
            ]
    except UNUSABLE:
        return []


def _away(service: Service, error: Exception) -> str:
    return f"MLflow at {service.mlflow.tracking_uri}: {type(error).__name__}"


def _version(each: dict[str, Any]) -> Version:
    own = {row["key"]: row["value"] for row in each.get("tags", [])}
    return Version(
        version=str(each["version"]),
        run_id=each.get("run_id", ""),
        made_at=float(each.get("creation_timestamp", 0)) / 1000,
        tags={key.removeprefix(PREFIX): own[key] for key in own if key.startswith(PREFIX)},
    )


def _client(service: Service) -> httpx.Client:
    base = f"{service.mlflow.tracking_uri.rstrip('/')}/api/2.0/mlflow/"
    return httpx.Client(base_url=base, timeout=SECONDS)


def _run(each: dict[str, Any], place: str) -> Run:
    info, data = each["info"], each.get("data", {})
    return Run(
        run_id=info["run_id"],
        name=info.get("run_name", ""),
        status=info.get("status", ""),
        started_at=float(info.get("start_time", 0)) / 1000,
        params={row["key"]: row["value"] for row in data.get("params", [])},
        metrics={row["key"]: float(row["value"]) for row in data.get("metrics", [])},
        tags={row["key"]: row["value"] for row in data.get("tags", [])},
        address=f"{place}/{info['run_id']}",
    )

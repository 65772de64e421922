"""What taught a version, as a real MLflow and the lake know it."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from console.app import create_app
from tests.console.loop import add
from tests.console.session import browser, make_key, write_task
from tests.evaluators.lake import START, Rows

TASK = "console-versions"
OWN = {
    "state": "champion", "reason": "promote e-value 9 >= 2", "method": "sft", "replayed": "base",
    "gate": "passed", "gate_reason": "+12 points", "snapshot_id": "snap_v",
}  # fmt: skip


@pytest.fixture
def run_id(mlflow_address: str) -> str:
    """Of the run that made the only version."""

    def ask(path: str, **body: Any) -> Any:
        answer = httpx.post(f"{mlflow_address}/api/2.0/mlflow/{path}", json=body, timeout=60)
        return answer.raise_for_status().json()

    made = ask("experiments/create", name=TASK)
    run = ask("runs/create", experiment_id=made["experiment_id"])["run"]["info"]
    ask("registered-models/create", name=TASK)
    tags = [{"key": f"everlearn.{key}", "value": value} for key, value in OWN.items()]
    source = f"{run['artifact_uri']}/adapter"
    ask("model-versions/create", name=TASK, source=source, run_id=run["run_id"], tags=tags)
    return str(run["run_id"])


def test_a_version_leads_to_what_taught_it_and_its_dataset_leads_back(
    tmp_path: Path, mlflow_address: str, run_id: str
) -> None:
    rows = Rows(tmp_path)
    mlflow = rows.service.mlflow.model_copy(update={"tracking_uri": mlflow_address})
    service = rows.service.model_copy(update={"mlflow": mlflow})
    write_task(tmp_path, TASK)
    add(rows, "snapshots", snapshot_id="snap_v", task=TASK, counts="{}", created_at=START)
    for n in range(3):
        add(
            rows, "snapshot_rows", snapshot_id="snap_v", completion_id=f"cmpl_{n}", unit="ann",
            split="train", kind="correction", author="expert", weight=1.0,
        )  # fmt: skip
    add(
        rows, "releases", release_id="rel_v", task=TASK, version="1", event="promoted",
        phase="promoted", percent=100.0, reason="it was better", created_at=START,
    )  # fmt: skip
    key = make_key(service, "viewer")
    with browser(create_app(service), key) as session:
        told = session.get(f"/versions?task={TASK}&version=1").text
        for word in (
            "champion: promote e-value 9 &gt;= 2", "by sft", "passed: +12 points", run_id,
            "train: 3 rows of 1 users", "correction", "it was better", 'href="/datasets/snap_v"',
            f'href="/releases/{TASK}?show=rel_v"', f'href="/versions?task={TASK}&amp;version=base"',
        ):  # fmt: skip
            assert word in told, word
        back = f'href="/versions?task={TASK}&amp;version=1"'
        assert back in session.get("/datasets/snap_v").text
        assert back in session.get(f"/versions?task={TASK}").text
        missing = session.get(f"/versions?task={TASK}&version=7")
        assert (missing.status_code, "there are: 1" in missing.text) == (404, True)
    rows.lake.close()

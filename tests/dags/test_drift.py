"""The drift schedule: what goes on to training, and what becomes of each exit code."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.builders import make_service

DAG = Path(__file__).parents[2] / "dags" / "drift.py"
SHOW = """
import json, runpy, sys
found = runpy.run_path(sys.argv[1])
look = {}
for name in [name for name in found if name.startswith("everlearn_drift_")]:
    tasks = {task.task_id: task for task in found[name].tasks}
    look[name] = {
        "tasks": sorted(tasks), "command": tasks["look"].bash_command,
        "skip": list(tasks["look"].skip_on_exit_code),
    }
print("FOUND" + json.dumps(look))
"""


@pytest.fixture(scope="module")
def schedules(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("dags")
    make_service(folder)
    for name, retrain in (("watched", False), ("taught", True)):
        task = {
            "task": name, "base_model": "base", "upstream": "local", "drift": {"retrain": retrain},
            "graders": [{"name": "thumbs", "type": "feedback", "feedback": "thumbs"}],
        }  # fmt: skip
        (folder / "tasks" / f"{name}.yaml").write_text(yaml.safe_dump(task))
    environment = {
        **os.environ, "AIRFLOW_HOME": str(folder / "airflow"),
        "EVERLEARN_CONFIG": str(folder / "everlearn.yaml"),
    }  # fmt: skip
    shown = subprocess.run(
        [sys.executable, "-c", SHOW, str(DAG)],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert "FOUND" in shown.stdout, shown.stderr
    found: dict[str, Any] = json.loads(shown.stdout.split("FOUND")[1])
    return found


def test_only_a_task_that_asks_for_it_is_trained(schedules: dict[str, Any]) -> None:
    assert {name: each["tasks"] for name, each in schedules.items()} == {
        "everlearn_drift_watched": ["look"],
        "everlearn_drift_taught": ["look", "retrain"],
    }


@pytest.mark.parametrize(
    ("code", "outcome"),
    [(0, "skipped"), (1, "failed"), (2, "failed"), (3, "skipped"), (4, "failed"), (5, "goes on")],
)
def test_what_the_verb_says_decides(
    tmp_path: Path, schedules: dict[str, Any], code: int, outcome: str
) -> None:
    verb = tmp_path / "everlearn"
    verb.write_text(f"#!/bin/sh\nexit {code}\n")
    verb.chmod(0o755)
    dag = schedules["everlearn_drift_taught"]
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    ended = subprocess.run(["bash", "-c", dag["command"]], env=environment, check=False).returncode
    found = "goes on" if ended == 0 else "skipped" if ended in dag["skip"] else "failed"
    assert found == outcome

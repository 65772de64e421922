"""When each task's DAGs run is the task file's word, and a wrong word stops that task only."""

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from everlearn.schedule import when
from tests.builders import make_service

DAGS = Path(__file__).parents[2] / "dags"
SHOW = """
import json, runpy, sys
found = {}
for path in sys.argv[1:]:
    for name, dag in runpy.run_path(path).items():
        if name.startswith("everlearn_"):
            found[name] = [str(dag.schedule), dag.catchup, dag.max_active_runs]
print("FOUND" + json.dumps(found))
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30s", timedelta(seconds=30)), ("9m", timedelta(minutes=9)), ("36h", timedelta(hours=36)),
        ("7d", timedelta(days=7)), ("30 3 * * *", "30 3 * * *"), ("*/5 8-18 * * mon-fri",) * 2,
        ("@daily", "@daily"), ("never", None),
    ],
)  # fmt: skip
def test_durations_cron_and_presets_are_what_a_scheduler_takes(text: str, expected: Any) -> None:
    assert when(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "10", "0m", "1s", "-5m", "1.5h", "10 m", "hourly", "@reboot", "61 * * * *", "* * * *",
     "* * * * * *", "a b c d e", "99999999999d", "1h\n"],
)  # fmt: skip
def test_anything_else_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match=r"10m, 2h or 1d; five fields of cron.*never"):
        when(text)


def declared(name: str, **schedule: str) -> str:
    graders = [{"name": "thumbs", "type": "feedback", "feedback": "thumbs"}]
    task = {"task": name, "base_model": "base", "upstream": "local", "graders": graders}
    return yaml.safe_dump({**task, "schedule": schedule})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_service(tmp_path)
    texts = {
        "usual": declared("usual"),
        "hurried": declared("hurried", evaluate="1m", drift="never", retrain="*/20 * * * *"),
        "wrong": declared("wrong", retrain="whenever"),
    }
    for name, text in texts.items():
        (tmp_path / "tasks" / f"{name}.yaml").write_text(text)
    return tmp_path


def test_each_task_has_its_own_and_a_wrong_one_stops_only_itself(folder: Path) -> None:
    environment = {
        **os.environ, "AIRFLOW_HOME": str(folder / "airflow"),
        "EVERLEARN_CONFIG": str(folder / "everlearn.yaml"),
    }  # fmt: skip
    files = [str(DAGS / f"{name}.py") for name in ("evaluate", "label", "drift", "retrain")]
    shown = subprocess.run(
        [sys.executable, "-c", SHOW, *files],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert "FOUND" in shown.stdout, shown.stderr
    found = json.loads(shown.stdout.split("FOUND")[1])
    # A scheduler that was down for an hour trains once when it is back, and never twice at a time.
    assert {(catches_up, at_once) for _, catches_up, at_once in found.values()} == {(False, 1)}
    assert {name: schedule for name, (schedule, _, _) in found.items()} == {
        "everlearn_evaluate_usual": "0:10:00",
        "everlearn_label_usual": "1 day, 0:00:00",
        "everlearn_drift_usual": "1:00:00",
        "everlearn_retrain_usual": "2:00:00",
        "everlearn_evaluate_hurried": "0:01:00",
        "everlearn_label_hurried": "1 day, 0:00:00",
        "everlearn_drift_hurried": "None",
        "everlearn_retrain_hurried": "*/20 * * * *",
    }

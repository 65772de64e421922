"""The loop itself: `everlearn demo --fast`, then the same verbs by a real Airflow on its data."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from everlearn.supervise import url_answers
from tests.ports import free_ports

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Run:
    """A finished demo: its environment, output and report."""

    env: dict[str, str]
    output: str
    exit_code: int
    report: Path
    folder: Path

    def everlearn(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [str(BIN / "everlearn"), *words]
        return subprocess.run(
            command, cwd=ROOT, env=self.env, capture_output=True, text=True, timeout=300
        )


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("demo")
    gateway, model_server, mlflow = free_ports(3)
    env = {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "EVERLEARN_CONFIG": str(ROOT / "everlearn.yaml"),
        "EVERLEARN_DATA_DIR": str(folder / "data"),
        "EVERLEARN_GATEWAY__PORT": str(gateway),
        "EVERLEARN_MODEL_SERVER__PORT": str(model_server),
        "EVERLEARN_UPSTREAMS__LOCAL__BASE_URL": f"http://127.0.0.1:{model_server}/v1",
        "EVERLEARN_MLFLOW__TRACKING_URI": f"http://127.0.0.1:{mlflow}",
    }
    report = folder / "report.html"
    command = [str(BIN / "everlearn"), "demo", "--fast", "--report", str(report)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=800)
    return Run(env, done.stdout + done.stderr, done.returncode, report, folder)


def test_the_loop_closes(demo: Run) -> None:
    assert demo.exit_code == 0, demo.output[-6000:]


def test_the_report_is_readable_without_a_network(demo: Run) -> None:
    text = demo.report.read_text()
    assert text.count("<svg") >= 4
    assert not re.search(r"(src|href)=\"https?://", text)
    assert "rolled_back" in text


def test_nothing_acknowledged_is_missing_or_doubled(demo: Run) -> None:
    capture = json.loads(demo.everlearn("status", "--json").stdout)["capture"]
    assert capture["stored"] > 0
    assert capture["missing"] == capture["duplicates"] == 0


def test_the_lake_answers_the_questions_of_the_readme(demo: Run) -> None:
    by_arm = demo.everlearn(
        "sql",
        "--json",
        "select arm, version, count(*) as n, avg(latency_ms) from completions group by all",
    )
    arms = {(row["arm"], row["version"]) for row in json.loads(by_arm.stdout)}
    assert {("champion", "base"), ("challenger", "1"), ("champion", "1")} <= arms
    joined = demo.everlearn("sql", "--json", "select count(*) as n from feedback_joined")
    assert json.loads(joined.stdout)[0]["n"] > 0


def test_every_release_step_shows_the_comparison_that_decided(demo: Run) -> None:
    shown = demo.everlearn("release", "show", "text2sql")
    assert shown.returncode == 0, shown.stderr
    assert "harm e-value" in shown.stdout
    query = "select version, event, reason from releases order by created_at"
    events = json.loads(demo.everlearn("sql", "--json", query).stdout)
    endings = {(row["version"], row["event"]) for row in events}
    assert {("1", "promoted"), ("2", "rolled_back")} <= endings
    assert all(row["reason"] for row in events)


@pytest.fixture(scope="module")
def airflow(demo: Run) -> Iterator[Callable[..., str]]:
    """A real Airflow over the data of the demo, with a quick method, and everything up again."""
    task = yaml.safe_load((ROOT / "examples/text2sql/tasks/text2sql.yaml").read_text())
    for grader in task["graders"]:
        if "database" in grader:
            database = (ROOT / "examples/text2sql/tasks" / grader["database"]).resolve()
            grader["database"] = str(database)
    task["train"] = {**task.get("train", {}), "method": "sft", "max_steps": 10}
    task["gate"] = {**task.get("gate", {}), "min_gain": -1.0, "max_latency_ratio": 100.0}
    # What the demo's champion leaves to gain would not be worth a training.
    task["release"] = {**task.get("release", {}), "smallest_effect": 0.001}
    tasks = demo.folder / "tasks"
    tasks.mkdir()
    (tasks / "text2sql.yaml").write_text(yaml.safe_dump(task))
    env = {
        **demo.env,
        "EVERLEARN_TASKS_DIR": str(tasks),
        "AIRFLOW_HOME": str(demo.folder / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }

    def run(*words: str) -> str:
        command = [str(BIN / "airflow"), *words]
        done = subprocess.run(
            command, cwd=demo.folder, env=env, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
        return done.stdout

    run("db", "migrate")
    run("dags", "reserialize")
    log = (demo.folder / "up.log").open("w")
    up = subprocess.Popen([str(BIN / "everlearn"), "up"], cwd=ROOT, env=env, stdout=log, stderr=log)
    ready = f"http://127.0.0.1:{env['EVERLEARN_GATEWAY__PORT']}/ready"
    deadline = time.monotonic() + 150
    try:
        while not url_answers(ready):
            assert up.poll() is None, (demo.folder / "up.log").read_text()
            assert time.monotonic() < deadline, (demo.folder / "up.log").read_text()
            time.sleep(0.5)
        yield run
    finally:
        up.send_signal(signal.SIGINT)
        up.wait(timeout=90)
        log.close()


def test_airflow_judges_retrains_and_releases(demo: Run, airflow: Callable[..., str]) -> None:
    airflow("dags", "test", "everlearn_evaluate_text2sql")
    airflow("dags", "test", "everlearn_retrain_text2sql")
    runs = airflow("dags", "list-runs", "everlearn_release_text2sql", "--output", "json")
    assert "everlearn_release_text2sql" in runs[runs.index("[{") :]
    # The demo made 1 and the spoiled 2.
    version = "3"
    words = ("dags", "test", "everlearn_release_text2sql", "-c", json.dumps({"version": version}))
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(airflow, *words)
        deadline = time.monotonic() + 300
        while (shown := released(demo))["phase"] != "ramping":
            assert not waits.done(), waits.result()
            assert time.monotonic() < deadline, shown
            time.sleep(1)
        assert shown["version"] == version
        # Nobody asks here: it would wait for its evidence.
        assert demo.everlearn("release", "abort", "text2sql").returncode == 0
        waits.result()
    assert released(demo)["phase"] == "aborted"


def released(demo: Run) -> dict[str, Any]:
    """The task's last release, as `release show` tells it."""
    shown: dict[str, Any] = json.loads(
        demo.everlearn("release", "show", "text2sql", "--json").stdout
    )
    return shown

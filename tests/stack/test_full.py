"""`everlearn up --stack full`, all of it: Airflow's scheduler judges what came in over Kafka."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import yaml

from everlearn.airflow import environment
from everlearn.config import load
from tests.serving.tiny import make_model

BIN = Path(sys.executable).parent
PATIENCE_SECONDS = 240
"""For one step; the machine may be busy. What went wrong ends a wait sooner."""
TASK = {
    "task": "support",
    "base_model": "model",
    "served_base": "support-base",
    "upstream": "mine",
    "graders": [
        {"type": "feedback", "name": "thumbs", "feedback": "thumbs"},
        {
            **{"type": "string_check", "name": "matches", "operation": "eq"},
            **{"input": "{{ sample.output_text }}", "reference": "{{ item.reference }}"},
        },
    ],
    "heldout": {"grader": "matches"},
}


class Stack(NamedTuple):
    """A running stack."""

    process: subprocess.Popen[bytes]
    folder: Path
    ports: dict[str, int]
    env: dict[str, str]

    def said(self) -> str:
        return (self.folder / "up.log").read_text()

    def everlearn(self, *words: str) -> str:
        done = subprocess.run(
            [str(BIN / "everlearn"), *words],
            cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def airflow(self, *words: str) -> bool:
        """Whether a command of Airflow's own did what it was told, as the stack's is set up."""
        config = self.folder / "everlearn.yaml"
        service = load(config)
        settings = environment(service, service.data_path / "airflow", config)
        done = subprocess.run(
            [sys.executable, "-m", "airflow", *words],
            env={**self.env, **settings}, capture_output=True, text=True, timeout=180,
        )  # fmt: skip
        return done.returncode == 0

    def until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not done():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.5)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.ports['gateway']}{path}",
            json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read()), answer.headers


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]
) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("full")
    names = ("gateway", "console", "mlflow", "airflow", "kafka", "model", "shipper", "collector")
    ports = {name: free_port() for name in names}
    make_model(folder / "model")
    config = {
        "data_dir": "data",
        "upstreams": {
            "mine": {"base_url": f"http://127.0.0.1:{ports['model']}/v1", "kind": "vllm"}
        },
        "gateway": {"port": ports["gateway"]},
        "console": {"port": ports["console"]},
        "airflow": {"port": ports["airflow"], "parallelism": 2},
        "mlflow": {"tracking_uri": f"http://127.0.0.1:{ports['mlflow']}"},
        "bus": {"bootstrap_servers": [f"127.0.0.1:{ports['kafka']}"], "partitions": 2},
        "model_server": {
            **{"model": "model", "served_model_name": "support-base", "port": ports["model"]},
        },
    }
    (folder / "tasks").mkdir()
    (folder / "tasks" / "support.yaml").write_text(yaml.safe_dump(TASK))
    (folder / "everlearn.yaml").write_text(yaml.safe_dump(config))
    env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    with (folder / "up.log").open("w") as log:
        process = subprocess.Popen(
            [str(BIN / "everlearn"), "up", "--stack", "full"],
            cwd=folder, env=env, stdout=log, stderr=log,
        )  # fmt: skip
    running = Stack(process, folder, ports, env)
    try:
        running.until(lambda: "everlearn: up;" in running.said())
        yield running
    finally:
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=180)
        _gone, alive = psutil.wait_procs(family, timeout=20)
        assert not alive, f"left behind: {alive}"


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(600)
def test_airflows_scheduler_judges_what_came_in_over_kafka(stack: Stack) -> None:
    messages = [{"role": "user", "content": "Where is my parcel?"}]
    # The model is random: only a grammar makes it come to an end, and only what ends is judged.
    shape = {"type": "json_schema", "json_schema": {"name": "place", "schema": {"enum": ["here"]}}}
    said, headers = stack.post(
        "/v1/chat/completions", {"model": "support", "messages": messages, "response_format": shape}
    )
    assert said["choices"][0]["finish_reason"] == "stop"
    name = headers["x-everlearn-id"]
    stack.post("/v1/feedback", {"completion_id": name, "value": "up"})

    def holds(query: str, row: dict[str, Any]) -> bool:
        return row in json.loads(stack.everlearn("sql", "--json", query))

    arrived = f"SELECT target FROM feedback WHERE target = '{name}'"
    stack.until(lambda: holds(arrived, {"target": name}))
    # The first run by the schedule may have been before it came, the next is in ten minutes. A
    # schedule that is not read yet cannot be started.
    stack.until(lambda: stack.airflow("dags", "trigger", "everlearn_evaluate_support"))
    scored = f"SELECT value FROM scores WHERE completion_id = '{name}' AND evaluator = 'thumbs'"
    stack.until(lambda: holds(scored, {"value": 1.0}))
    sources = json.loads(stack.everlearn("sql", "--json", "SELECT source FROM offsets"))
    assert sources
    assert not any(row["source"].startswith("wal/") for row in sources)


@pytest.mark.slow
@pytest.mark.alone
def test_every_process_is_told_with_its_address_and_airflow_with_its_login(stack: Stack) -> None:
    said = stack.said()
    assert {line.split()[0] for line in said.splitlines() if line.startswith("  ")} == {
        *("kafka", "mlflow", "model-server", "collector", "shipper", "gateway", "releases"),
        *("console", "airflow", "airflow-scheduler", "airflow-dags", "airflow-triggerer"),
    }
    for name in ("gateway", "console", "airflow", "mlflow", "model"):
        assert f"http://127.0.0.1:{stack.ports[name]}" in said
    assert "admin / " in said


@pytest.mark.slow
@pytest.mark.alone
def test_nothing_of_it_listens_beyond_this_machine(stack: Stack) -> None:
    heard = set()
    for process in psutil.Process(stack.process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # a run of Airflow's ends when it is done
            heard |= {
                connection.laddr.ip
                for connection in process.net_connections(kind="tcp")
                if connection.laddr and connection.status == psutil.CONN_LISTEN
            }
    assert heard
    assert heard <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


@pytest.mark.slow
@pytest.mark.alone
def test_a_second_one_on_the_same_data_says_what_runs(stack: Stack) -> None:
    again = subprocess.run(
        [str(BIN / "everlearn"), "up"],
        cwd=stack.folder, env=stack.env, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert again.returncode != 0
    assert f"http://127.0.0.1:{stack.ports['gateway']}" in again.stderr

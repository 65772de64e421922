"""Walks docs/quickstart.md as it stands, in front of a model server that is not the example's."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from everlearn.supervise import url_answers
from tests.serving.tiny import make_model

PAGE = (Path(__file__).parents[1] / "docs" / "quickstart.md").read_text()
BIN = Path(sys.executable).parent


def blocks(language: str) -> list[str]:
    """Code blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S)


def environment(folder: Path, ports: dict[str, int]) -> dict[str, str]:
    """The page's ports moved to free ones, by the environment as the page says."""
    return {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "EVERLEARN_GATEWAY__PORT": str(ports["8000"]),
        "EVERLEARN_MLFLOW__TRACKING_URI": f"http://127.0.0.1:{ports['5000']}",
        "EVERLEARN_UPSTREAMS__MINE__BASE_URL": f"http://127.0.0.1:{ports['9000']}/v1",
    }


@contextmanager
def running(command: list[str], folder: Path, env: dict[str, str], ready: str) -> Iterator[None]:
    """A command in the background until the block ends, stopped as Ctrl-C would."""
    log = folder / f"{command[-1].replace('/', '_')}.log"
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + 300
        while not url_answers(ready):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"{command} did not answer at {ready}:\n{log.read_text()[-3000:]}")
            time.sleep(0.3)
        yield
    finally:
        if process.poll() is None:
            children = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGINT)
            process.wait(timeout=90)
            _gone, alive = psutil.wait_procs(children, timeout=10)
            assert not alive, f"left behind: {alive}"


def start_upstream(folder: Path, port: int) -> tuple[list[str], dict[str, str]]:
    """A model server of somebody else: its own folder, model and config."""
    folder.mkdir()
    make_model(folder / "model")
    (folder / "everlearn.yaml").write_text(
        f"model_server: {{model: model, served_model_name: support-base, port: {port}}}\n"
    )
    return [str(BIN / "everlearn"), "serve"], {**os.environ}


def everlearn(folder: Path, env: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "everlearn"), *words]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120)


def until_stored(folder: Path, env: dict[str, str], feedback: int) -> dict[str, int]:
    """The capture ledger once both feedbacks can be queried."""
    deadline = time.monotonic() + 120
    while True:
        count = everlearn(folder, env, "sql", "--json", "SELECT count(*) AS n FROM feedback_joined")
        rows = json.loads(count.stdout or "[]")
        if rows and rows[0]["n"] == feedback:
            break
        assert time.monotonic() < deadline, count.stdout + count.stderr
        time.sleep(0.5)
    done = everlearn(folder, env, "status", "--json")
    assert done.returncode == 0, done.stderr
    capture = json.loads(done.stdout)["capture"]
    assert isinstance(capture, dict)
    return capture


@pytest.mark.slow
@pytest.mark.alone
def test_the_quickstart_works_as_it_is_written(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    ports = {name: free_port() for name in ("8000", "5000", "9000")}
    mine = tmp_path / "mine"
    (mine / "tasks").mkdir(parents=True)
    service, task = blocks("yaml")
    (mine / "everlearn.yaml").write_text(service)
    (mine / "tasks" / "support.yaml").write_text(task)
    make_model(mine / "models" / "support")
    env = environment(mine, ports)

    checked = everlearn(mine, env, "config", "check")
    assert checked.returncode == 0, checked.stderr
    assert "support-base" in checked.stdout

    upstream, upstream_env = start_upstream(tmp_path / "theirs", ports["9000"])
    ready = f"http://127.0.0.1:{ports['9000']}/health"
    with running(upstream, tmp_path / "theirs", upstream_env, ready):
        gateway = f"http://127.0.0.1:{ports['8000']}"
        with running([str(BIN / "everlearn"), "up"], mine, env, f"{gateway}/ready"):
            code = "\n".join(blocks("python")).replace("http://127.0.0.1:8000", gateway)
            asked = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
            )
            assert asked.returncode == 0, asked.stderr
            capture = until_stored(mine, env, feedback=2)
            assert capture["stored"] >= 3
            assert capture["missing"] == capture["duplicates"] == 0
            evaluated = everlearn(mine, env, "evaluate", "support")
            assert evaluated.returncode == 0, evaluated.stderr
            trained = everlearn(mine, env, "train", "support", "--dry-run")
            assert trained.returncode == 3, trained.stdout + trained.stderr

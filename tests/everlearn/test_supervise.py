"""Ordered start, restart of what dies, a stop that leaves nothing behind: on real processes."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from everlearn.errors import EverlearnError
from everlearn.supervise import Process, Supervisor, processes, render, url_answers
from tests.builders import make_service

SERVER = "import http.server as h, sys;h.test(h.SimpleHTTPRequestHandler, port=int(sys.argv[1]))"


def web(name: str, port: int, wave: int) -> Process:
    address = f"http://127.0.0.1:{port}"
    return Process(name, (sys.executable, "-c", SERVER, str(port)), wave, address, f"{address}/")


def test_processes_start_in_waves_and_none_is_left_after_stop(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    rows = [web("first", free_port(), 0), web("second", free_port(), 1)]
    answered: list[str] = []
    with Supervisor(rows, tmp_path) as supervisor:
        supervisor.start(lambda process: answered.append(process.name))
        pids = [info["pid"] for info in supervisor.states().values()]
        assert all(url_answers(row.ready or "") for row in rows)
    assert answered == ["first", "second"]
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_a_killed_process_is_started_again(tmp_path: Path, free_port: Callable[[], int]) -> None:
    row = web("web", free_port(), 0)
    with Supervisor([row], tmp_path) as supervisor:
        supervisor.start(lambda process: None)
        before = supervisor.states()["web"]["pid"]
        os.kill(before, signal.SIGKILL)
        deadline = time.monotonic() + 20
        while supervisor.states()["web"]["pid"] in (before, 0) or not url_answers(row.ready or ""):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert supervisor.states()["web"]["pid"] != before


def test_a_process_that_does_not_stay_up_is_named_with_its_last_words(tmp_path: Path) -> None:
    broken = Process("broken", (sys.executable, "-c", "raise SystemExit('no such model')"), 0)
    with (
        Supervisor([broken], tmp_path) as supervisor,
        pytest.raises(EverlearnError, match="no such model"),
    ):
        supervisor.start(lambda process: None)


def test_a_process_that_ends_before_it_answers_is_not_awaited_for_long(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """It runs long enough to count as started, as one does whose port is taken."""
    code = "import time; time.sleep(1.2); raise SystemExit('address already in use')"
    address = f"http://127.0.0.1:{free_port()}"
    broken = Process("broken", (sys.executable, "-c", code), 0, address, address)
    started = time.monotonic()
    with (
        Supervisor([broken], tmp_path) as supervisor,
        pytest.raises(EverlearnError, match="address already in use"),
    ):
        supervisor.start(lambda process: None)
    assert time.monotonic() - started < 60


def test_an_interrupted_start_stops_what_it_started(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    deaf = Process("deaf", (sys.executable, "-c", "import time; time.sleep(600)"), 0)
    waiting = Process(deaf.name, deaf.command, 0, None, f"http://127.0.0.1:{free_port()}/")
    started = time.monotonic()
    with Supervisor([waiting], tmp_path) as supervisor:
        supervisor.start(lambda process: None, lambda: time.monotonic() - started > 2)
        pid = supervisor.states()["deaf"]["pid"]
        assert psutil.pid_exists(pid)
    assert not psutil.pid_exists(pid)


def test_the_local_stack_opens_the_door_last_and_closes_it_first(tmp_path: Path) -> None:
    service = make_service(tmp_path, model_server={"model": "model"})
    names = [row.name for row in processes(service, tmp_path / "everlearn.yaml", "local")]
    assert names == ["mlflow", "model-server", "collector", "gateway", "releases"]


def test_percent_signs_survive_supervisord(tmp_path: Path) -> None:
    row = Process("odd", ("echo", "100%"), 0)
    parser = render([row], tmp_path, tmp_path / "socket")
    assert parser["program:odd"]["command"] == "echo 100%%"

"""Ordered start, restart of what dies, a stop that leaves nothing behind: on real processes."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from everlearn import airflow
from everlearn.errors import ConfigError, EverlearnError
from everlearn.process import Process
from everlearn.stack import processes
from everlearn.supervise import Supervisor, alone, render, url_answers
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
    config = tmp_path / "run" / "supervisord.conf"
    with Supervisor(rows, tmp_path) as supervisor:
        supervisor.start(lambda process: answered.append(process.name))
        pids = [info["pid"] for info in supervisor.states().values()]
        assert all(url_answers(row.ready or "") for row in rows)
        own = Path(re.findall(r"^file = (.*)$", config.read_text(), re.M)[0]).parent
        assert own.exists()
    assert answered == ["first", "second"]
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert not own.exists()


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


def test_what_a_killed_process_leaves_behind_does_not_keep_its_successors_port(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """As MLflow does, whose server is a child of the command."""
    port = free_port()
    parent = (
        "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', *sys.argv[1:]]))"
    )
    row = replace(
        web("web", port, 0), command=(sys.executable, "-c", parent, SERVER, str(port)), ready=None
    )

    def listener() -> psutil.Process | None:
        pid = supervisor.states()["web"]["pid"]
        children: list[psutil.Process] = []
        with suppress(psutil.NoSuchProcess):  # killed, and not told yet
            children = psutil.Process(pid).children() if pid else []
        return children[0] if children and url_answers(row.address or "") else None

    def until_it_listens(other_than: psutil.Process | None = None) -> psutil.Process:
        deadline = time.monotonic() + 60
        while (found := listener()) is None or found == other_than:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        return found

    with Supervisor([row], tmp_path) as supervisor:
        supervisor.start(lambda process: None)
        first = until_it_listens()
        first.parent().kill()  # type: ignore[union-attr]
        second = until_it_listens(first)
        second.parent().kill()  # type: ignore[union-attr]
    assert not url_answers(row.address or "")


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


def test_a_stranger_on_the_port_is_named_and_not_taken_for_the_process(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    port = free_port()
    stranger = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        row = replace(web("gateway", port, 0), setting="gateway.port")
        deadline = time.monotonic() + 20
        while not url_answers(row.ready or ""):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        with (
            Supervisor([row], tmp_path) as supervisor,
            pytest.raises(EverlearnError, match=rf"process {stranger.pid} .*set gateway.port"),
        ):
            supervisor.start(lambda process: None)
    finally:
        stranger.kill()
        stranger.wait(20)


def test_a_stranger_that_takes_the_port_during_the_start_is_not_believed(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """Ours runs and listens nowhere; what answers at its address is somebody else."""
    port = free_port()
    row = replace(
        web("deaf", port, 0),
        command=(sys.executable, "-c", "import time; time.sleep(600)"),
        start_timeout_seconds=3.0,
    )
    strangers: list[subprocess.Popen[bytes]] = []
    told: list[str] = []

    def stranger_comes() -> bool:
        if not strangers:
            command = [sys.executable, "-c", SERVER, str(port)]
            quiet = subprocess.DEVNULL
            strangers.append(subprocess.Popen(command, stdout=quiet, stderr=quiet))
        return False

    try:
        with (
            Supervisor([row], tmp_path) as supervisor,
            pytest.raises(EverlearnError, match=r"deaf did not answer at .* within 3 s"),
        ):
            supervisor.start(lambda process: told.append(process.name), stranger_comes)
        assert url_answers(row.ready or "")
        assert told == []
    finally:
        for stranger in strangers:
            stranger.kill()
            stranger.wait(20)


def test_a_start_that_takes_long_says_what_it_waits_for(
    tmp_path: Path, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("everlearn.supervise.TOLD_EVERY_SECONDS", 0.5)
    code = f"import time; time.sleep(3)\n{SERVER}"
    slow = replace(web("slow", free_port(), 0))
    slow = replace(slow, command=(sys.executable, "-c", code, slow.command[-1]))
    waited: list[tuple[str, float]] = []
    with Supervisor([slow], tmp_path) as supervisor:
        supervisor.start(lambda process: None, waiting=lambda one, s: waited.append((one.name, s)))
    assert {name for name, _ in waited} == {"slow"}
    assert [seconds for _, seconds in waited] == sorted(seconds for _, seconds in waited)


def test_a_second_stack_on_the_same_data_says_what_runs_already(tmp_path: Path) -> None:
    with alone(tmp_path) as notes:
        notes.write_text("  gateway  http://127.0.0.1:8000\n")
        with (
            pytest.raises(EverlearnError, match=r"up on .* already:\n  gateway  http"),
            alone(tmp_path),
        ):
            pass
    with alone(tmp_path) as notes:
        assert notes.read_text() == ""


def test_airflow_is_for_this_machine_only(tmp_path: Path) -> None:
    service = make_service(tmp_path, airflow={"host": "0.0.0.0", "port": 8080})
    with pytest.raises(ConfigError, match=r"airflow.host = '0.0.0.0'.*127.0.0.1"):
        airflow.processes(service, tmp_path / "everlearn.yaml")


def test_the_local_stack_opens_the_door_last_and_closes_it_first(tmp_path: Path) -> None:
    service = make_service(tmp_path, model_server={"model": "model"})
    names = [row.name for row in processes(service, tmp_path / "everlearn.yaml", "local")]
    assert names == ["mlflow", "model-server", "collector", "gateway", "releases"]


def test_percent_signs_survive_supervisord(tmp_path: Path) -> None:
    row = Process("odd", ("echo", "100%"), 0)
    parser = render([row], tmp_path, tmp_path / "socket")
    assert parser["program:odd"]["command"] == "echo 100%%"

"""Every process of a config on one machine: which there are, in which order, whether each answers.

`processes` is pure; `Supervisor` hands the list to supervisord (restart of what dies, log files,
stop by process group) and adds what it lacks: an ordered start that waits until each answers,
and a stop in the reverse order: the gateway closes its door before the collector reads the last
event.
"""

import configparser
import ctypes
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import xmlrpc.client
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from everlearn.broker import prepare
from everlearn.config import Service
from everlearn.errors import EverlearnError

START_SECONDS = 180.0
MAX_STARTS = 4
"""Of a process that does not answer yet."""
STOP_SECONDS = 40


@dataclass(frozen=True)
class Process:
    """One supervised program; `wave` orders the start (equal waves start together)."""

    name: str
    command: tuple[str, ...]
    wave: int
    address: str | None = None
    """Shown to people once it answers."""
    ready: str | None = None
    """URL that answers 2xx, or tcp:// that accepts, when the process can work; None: alive."""
    environment: dict[str, str] = field(default_factory=dict)


def processes(service: Service, config: Path, stack: str) -> tuple[Process, ...]:
    """What runs for this config.

    `stack` is `local`, or `full`: the events then go over a Kafka broker on this machine, and
    Airflow and the console run too.
    """
    rows = [_mlflow(service), _verb("collector", "collect", config, wave=1)]
    if service.model_server.model:
        address = f"http://{service.model_server.host}:{service.model_server.port}"
        rows.append(
            _verb("model-server", "serve", config, wave=0, address=address, ready="/health")
        )
    address = f"http://{service.gateway.host}:{service.gateway.port}"
    rows.append(_verb("gateway", "gateway", config, wave=2, address=address, ready="/ready"))
    rows.append(_verb("releases", "releases", config, "run", wave=3))
    if stack == "full":
        broker = service.bus.bootstrap_servers[0]
        rows.append(Process("kafka", prepare(service), 0, broker, f"tcp://{broker}"))
        address = f"http://{service.console.host}:{service.console.port}"
        rows.append(
            _verb("console", "console", config, wave=3, address=address, ready="/completeness")
        )
        rows.append(_airflow(service, config))
    if stack == "full" or service.bus.kind == "kafka":
        rows.append(_verb("shipper", "ship", config, wave=1))
    if stack == "full":
        rows = [_over_kafka(row) for row in rows]
    return tuple(sorted(rows, key=lambda process: process.wave))


def _over_kafka(process: Process) -> Process:
    return replace(process, environment={**process.environment, "EVERLEARN_BUS__KIND": "kafka"})


def _verb(
    name: str,
    verb: str,
    config: Path,
    *more: str,
    wave: int,
    address: str | None = None,
    ready: str | None = None,
) -> Process:
    command = (sys.executable, "-m", "everlearn", verb, *more, "--config", str(config))
    ready_url = f"{address}{ready}" if address and ready else None
    return Process(name, command, wave, address, ready_url)


def _mlflow(service: Service) -> Process:
    folder = (
        service.root / (service.mlflow.artifacts_path or service.data_path / "mlflow")
    ).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    host, _, port = service.mlflow.tracking_uri.split("//", 1)[1].partition(":")
    command = (
        *(sys.executable, "-m", "mlflow", "server", "--host", host, "--port", port or "5000"),
        *("--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"),
        *("--artifacts-destination", str(folder / "artifacts")),
    )
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    address = service.mlflow.tracking_uri
    return Process("mlflow", command, 0, address, f"{address}/health", quiet)


def _airflow(service: Service, config: Path) -> Process:
    """Airflow's standalone form: scheduler, API server and DAG processor on SQLite."""
    home = service.data_path / "airflow"
    home.mkdir(parents=True, exist_ok=True)
    environment = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(Path(__file__).parents[1] / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "EVERLEARN_CONFIG": str(config),
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
    }
    command = (sys.executable, "-m", "airflow", "standalone")
    address = "http://127.0.0.1:8080"
    return Process("airflow", command, 3, address, f"{address}/api/v2/monitor/health", environment)


def render(rows: Sequence[Process], folder: Path, socket: Path) -> configparser.RawConfigParser:
    """The supervisord config: nothing starts by itself, what dies is restarted."""
    parser = configparser.RawConfigParser()
    parser["supervisord"] = {
        "nodaemon": "true",
        "logfile": str(folder / "logs" / "supervisord.log"),
        "pidfile": str(folder / "run" / "supervisord.pid"),
        "identifier": "everlearn",
    }
    parser["unix_http_server"] = {"file": str(socket), "chmod": "0600"}
    factory = "supervisor.rpcinterface:make_main_rpcinterface"
    parser["rpcinterface:supervisor"] = {"supervisor.rpcinterface_factory": factory}
    for process in rows:
        environment = ",".join(f'{key}="{value}"' for key, value in process.environment.items())
        parser[f"program:{process.name}"] = {
            "command": shlex.join(process.command).replace("%", "%%"),
            "environment": environment.replace("%", "%%"),
            "directory": str(Path.cwd()),
            "autostart": "false",
            "autorestart": "true",
            "startsecs": "1",
            "startretries": "3",
            "stopsignal": "TERM",
            "stopwaitsecs": str(STOP_SECONDS),
            "stopasgroup": "true",
            "killasgroup": "true",
            "redirect_stderr": "true",
            "stdout_logfile": str(folder / "logs" / f"{process.name}.log"),
            "stdout_logfile_maxbytes": "20MB",
            "stdout_logfile_backups": "2",
        }
    return parser


class Supervisor:
    """A running supervisord with our processes; use as a context manager."""

    def __init__(self, rows: Sequence[Process], folder: Path) -> None:
        self.rows = tuple(rows)
        self.logs = folder / "logs"
        for name in ("logs", "run"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        # A unix socket's path may have 107 bytes at most; data folders are often deeper.
        self._socket = Path(tempfile.mkdtemp(prefix="everlearn-")) / "supervisor.sock"
        self._config = folder / "run" / "supervisord.conf"
        with self._config.open("w") as file:
            render(rows, folder, self._socket).write(file)
        self._daemon: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Supervisor":
        command = (sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(self._config))
        # Its own session: Ctrl-C reaches only us, who stop things in order.
        self._daemon = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
        _wait(self._socket.exists, 20.0, "supervisord did not start")
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(
        self, ready: Callable[[Process], None], cancelled: Callable[[], bool] = lambda: False
    ) -> None:
        """Start wave by wave, calling `ready` for each process that answers.

        Ends early when `cancelled`; raises with the last log lines of one that does not stay up.
        """
        for wave in sorted({process.wave for process in self.rows}):
            members = [process for process in self.rows if process.wave == wave]
            for process in members:
                self._call("startProcess", process.name, False)
            for process in members:
                self._await(process, cancelled)
                if cancelled():
                    return
                ready(process)

    def states(self) -> dict[str, dict[str, Any]]:
        """supervisord's view by name: statename, pid, start (Unix seconds) and so on."""
        return {info["name"]: info for info in self._call("getAllProcessInfo")}

    def stop(self) -> None:
        """Stop in the reverse order, then supervisord itself; nothing is left behind."""
        if self._daemon is None:
            return
        try:
            if self._daemon.poll() is None:
                for process in reversed(self.rows):
                    self._stop_one(process.name)
                self._daemon.send_signal(signal.SIGTERM)
            self._daemon.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._daemon.kill()
        self._daemon = None

    def _stop_one(self, name: str) -> None:
        try:
            self._call("stopProcess", name, True)
        except xmlrpc.client.Fault as fault:
            if "NOT_RUNNING" not in fault.faultString:
                raise

    def _await(self, process: Process, cancelled: Callable[[], bool]) -> None:
        pids = {0}

        def answers() -> bool:
            if cancelled():
                return True
            state = self.states()[process.name]
            pids.add(state["pid"])
            # One that ends a little later each time is started again without end.
            if state["statename"] == "FATAL" or len(pids) > MAX_STARTS + 1:
                raise EverlearnError(
                    f"{process.name} does not stay up:\n{self._tail(process.name)}"
                )
            return state["statename"] == "RUNNING" and (
                process.ready is None or url_answers(process.ready)
            )

        _wait(answers, START_SECONDS, f"{process.name} did not answer at {process.ready}")

    def _tail(self, name: str) -> str:
        log = self.logs / f"{name}.log"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return "\n".join([*lines[-15:], f"(whole log: {log})"])

    def _call(self, method: str, *arguments: Any) -> Any:
        from supervisor.xmlrpc import SupervisorTransport

        transport = SupervisorTransport(None, None, serverurl=f"unix://{self._socket}")
        proxy = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport)
        try:
            return getattr(proxy.supervisor, method)(*arguments)
        finally:
            transport.close()


def url_answers(url: str) -> bool:
    """Whether a GET is answered with 2xx, or a tcp:// address accepts, within a second."""
    try:
        if url.startswith("tcp://"):
            host, _, port = url.removeprefix("tcp://").rpartition(":")
            socket.create_connection((host, int(port)), timeout=1.0).close()
            return True
        with urllib.request.urlopen(url, timeout=1.0) as response:
            return bool(200 <= response.status < 300)
    except (urllib.error.URLError, OSError):
        return False


def _wait(done: Callable[[], bool], seconds: float, failure: str) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise EverlearnError(f"{failure} within {seconds:g} s")
        time.sleep(0.1)


def _die_with_parent() -> None:
    """Linux: supervisord gets SIGTERM, and stops everything, if we are killed without warning."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)

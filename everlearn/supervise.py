"""Runs the processes of a stack on this machine until it is told to stop.

`Supervisor` hands the list to supervisord (restart of what dies, log files, stop by process group)
and adds what it lacks:

- an ordered start that waits until each process answers, and says what it waits for;
- the answer must come from the process itself: a stranger on its port is named, not taken for it;
- a stop in the reverse order: the gateway closes before the collector reads the last event;
- one stack per data folder.
"""

import configparser
import ctypes
import fcntl
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import xmlrpc.client
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from everlearn import ports
from everlearn.errors import EverlearnError, InputError
from everlearn.process import Process

TOLD_EVERY_SECONDS = 5.0
"""How often a start that waits says for what."""
MAX_STARTS = 4
"""Of a process that does not answer yet."""
STOP_SECONDS = 40
DAEMON_SECONDS = 60.0
"""Until supervisord itself listens: it is quick, a busy machine is not."""


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
        self._pids: dict[str, int] = {}

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
        try:
            _wait(self._socket.exists, DAEMON_SECONDS, "supervisord did not start")
        except EverlearnError:
            self._daemon.kill()
            self._forget()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(
        self,
        ready: Callable[[Process], None],
        cancelled: Callable[[], bool] = lambda: False,
        waiting: Callable[[Process, float], None] = lambda process, seconds: None,
    ) -> None:
        """Start wave by wave, calling `ready` for each process that answers and `waiting` every
        few seconds with the one that is waited for and since when.

        Ends early when `cancelled`; raises with the last log lines of one that does not stay up,
        and with the owner's name where a stranger has its port.
        """
        for process in self.rows:
            _free(process)
        for wave in sorted({process.wave for process in self.rows}):
            members = [process for process in self.rows if process.wave == wave]
            for process in members:
                self._call("startProcess", process.name, False)
            for process in members:
                self._await(process, cancelled, waiting)
                if cancelled():
                    return
                ready(process)

    def states(self) -> dict[str, dict[str, Any]]:
        """supervisord's view by name: statename, pid, start (Unix seconds) and so on.

        What a process left that was killed since the last look is ended: it holds the port that its
        successor needs.
        """
        found = {info["name"]: info for info in self._call("getAllProcessInfo")}
        for name, info in found.items():
            if (last := self._pids.get(name, 0)) != info["pid"]:
                _end_group(last)
            self._pids[name] = info["pid"]
        return found

    def stop(self) -> None:
        """Stop in the reverse order, then supervisord itself; nothing is left behind."""
        if self._daemon is None:
            return
        try:
            if self._daemon.poll() is None:
                for process in reversed(self.rows):
                    self.halt(process.name)
                self._daemon.send_signal(signal.SIGTERM)
            self._daemon.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._daemon.kill()
        for pid in self._pids.values():
            _end_group(pid)
        self._forget()

    def _forget(self) -> None:
        self._daemon = None
        shutil.rmtree(self._socket.parent, ignore_errors=True)

    def resume(self, name: str) -> None:
        """Start one again that was halted; it is not waited for."""
        self._call("startProcess", name, False)

    def halt(self, name: str) -> None:
        """Stop one and leave it stopped."""
        try:
            self._call("stopProcess", name, True)
        except xmlrpc.client.Fault as fault:
            if "NOT_RUNNING" not in fault.faultString:
                raise

    def _await(
        self,
        process: Process,
        cancelled: Callable[[], bool],
        waiting: Callable[[Process, float], None],
    ) -> None:
        started = told = time.monotonic()
        pids = {0}
        while not self._answers(process, pids) and not cancelled():
            now = time.monotonic()
            if now - started > process.start_timeout_seconds:
                raise EverlearnError(
                    f"{process.name} did not answer at {process.ready} within "
                    f"{process.start_timeout_seconds:g} s:\n{self._tail(process.name)}"
                )
            if now - told >= TOLD_EVERY_SECONDS:
                told = now
                waiting(process, now - started)
            time.sleep(0.1)

    def _answers(self, process: Process, pids: set[int]) -> bool:
        """Whether it is up and it is itself that answers; `pids` collects its lives."""
        state = self.states()[process.name]
        pids.add(state["pid"])
        # One that ends a little later each time is started again without end.
        if state["statename"] == "FATAL" or len(pids) > MAX_STARTS + 1:
            raise EverlearnError(f"{process.name} does not stay up:\n{self._tail(process.name)}")
        if state["statename"] != "RUNNING" or process.ready is None:
            return bool(state["statename"] == "RUNNING")
        return url_answers(process.ready) and ports.is_ours(process.ready, state["pid"])

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


def _end_group(leader: int) -> None:
    """Kill what a process that is gone has left in its group.

    A number in use as a group's is not given to a new process: where one has it, nothing is left.
    """
    if not leader:
        return
    try:
        os.kill(leader, 0)
    except ProcessLookupError:
        with suppress(ProcessLookupError):
            os.killpg(leader, signal.SIGKILL)


def _free(process: Process) -> None:
    if process.ready is not None and ports.taken(process.ready):
        hint = f"set {process.setting}, or stop it" if process.setting else "stop it"
        raise InputError(
            f"{process.name}: {process.address} is taken by {ports.owner(process.ready)}: {hint}"
        )


@contextmanager
def alone(folder: Path) -> Iterator[Path]:
    """One stack per data folder: the file in which it may say where it answers.

    InputError with what the one that runs has said.
    """
    (folder / "run").mkdir(parents=True, exist_ok=True)
    notes = folder / "run" / "up"
    with notes.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            said = notes.read_text().rstrip() or "it is starting"
            raise InputError(f"everlearn is up on {folder} already:\n{said}") from None
        lock.truncate(0)
        yield notes
        lock.truncate(0)


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

"""`everlearn gateway`: one worker in this process, or several on one port under a parent."""

import ctypes
import logging
import multiprocessing
import os
import signal
import socket
import tempfile
import time
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import uvloop

from everlearn.config import Service
from everlearn.errors import ConfigError
from everlearn.process_log import set_up
from everlearn.task import Task
from everlearn.tls import tls_context
from gateway.counters import LIMITS_FILE, SharedCounters

log = logging.getLogger(__name__)

RESTART_SECONDS = 1.0
PR_SET_PDEATHSIG = 1
"""Linux: the signal a process gets when its parent ends."""


class Where(NamedTuple):
    """The address that workers share and the folder of their counts."""

    host: str
    port: int
    folder: Path


def run(service: Service, tasks: dict[str, Task]) -> None:
    """Serve until SIGTERM."""
    for upstream in service.upstreams.values():
        if upstream.tls_ca_file is not None:
            tls_context(upstream)  # said once, before there are workers
    if service.gateway.workers == 1:
        work(service, tasks, 0, None)
        return
    with tempfile.TemporaryDirectory(prefix="everlearn-gateway-") as folder:
        _Workers(service, tasks, Path(folder)).run()


def work(service: Service, tasks: dict[str, Task], worker: int, where: Where | None) -> None:
    """One worker; `where` is what it shares with the others."""
    from gateway.worker import Shared, serve

    if where is not None:
        # A parent killed with -9 takes its workers with it; they drain.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        set_up(service.logging, "gateway")
    try:
        shared = Shared(shared_socket(where.host, where.port), where.folder) if where else None
        uvloop.run(serve(service, tasks, worker, shared))
    except OSError as error:
        host, port = service.gateway.host, service.gateway.port
        raise ConfigError(
            f"gateway.port = {port}: cannot listen on {host}:{port}: {error.strerror}; set "
            "another, or stop what listens there"
        ) from error


def shared_socket(host: str, port: int) -> socket.socket:
    """A socket bound to an address that other processes may bind too; the kernel spreads
    connections over those that listen."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind((host, port))
    sock.setblocking(False)
    return sock


class _Workers:
    """The parent: starts workers, starts again what dies, passes SIGTERM on."""

    def __init__(self, service: Service, tasks: dict[str, Task], folder: Path) -> None:
        self._service = service
        self._tasks = tasks
        # Bound but not listening: keeps the port (and chooses it, if 0) for the workers.
        self._held = shared_socket(service.gateway.host, service.gateway.port)
        self._where = Where(service.gateway.host, self._held.getsockname()[1], folder)
        self._limits = SharedCounters(folder / LIMITS_FILE, service.gateway.workers)
        self._workers: dict[int, SpawnProcess] = {}
        self._stopping = False

    def run(self) -> None:
        """Until SIGTERM and the last worker's end."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        for index in range(self._service.gateway.workers):
            self._start(index)
        log.info("%d workers on %s:%d", len(self._workers), *self._where[:2])
        while self._workers:
            for index, process in list(self._workers.items()):
                if process.exitcode is not None:
                    self._ended(index, process.exitcode)
            time.sleep(0.1)
        self._held.close()

    def _start(self, index: int) -> None:
        arguments = (self._service, self._tasks, index, self._where)
        process = multiprocessing.get_context("spawn").Process(target=work, args=arguments)
        process.start()
        self._workers[index] = process

    def _ended(self, index: int, code: int) -> None:
        del self._workers[index]
        self._limits.forget(index)
        if self._stopping:
            return
        log.error("worker %d ended with %d; starting it again", index, code)
        time.sleep(RESTART_SECONDS)
        self._start(index)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True
        for process in self._workers.values():
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, signal.SIGTERM)

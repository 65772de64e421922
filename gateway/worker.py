"""One gateway process: builds its parts, serves, drains on SIGTERM."""

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from everlearn.config import Service
from everlearn.task import Task
from everlearn.telemetry import open_telemetry
from gateway import app
from gateway.capture import Recorder
from gateway.cors import Cors
from gateway.counters import LIMITS_FILE, SharedCounters
from gateway.every import Every
from gateway.folder import POLL_SECONDS as FOLDER_SECONDS
from gateway.folder import TaskFolder
from gateway.hot import ENDPOINTS, Hot
from gateway.http import asgi
from gateway.http.client import Client, Limits, Work
from gateway.http.heads import Head, Request
from gateway.http.server import Server
from gateway.http.wire import Refusal
from gateway.intake import full
from gateway.keys import Keyring
from gateway.keystore import KeyStore
from gateway.local import Local
from gateway.metrics import Metrics
from gateway.parts import Parts
from gateway.passed import Passing, route_of
from gateway.routestore import RouteStore
from gateway.table import POLL_SECONDS, RouteTable
from gateway.upstream import SWEEP_SECONDS, Upstream

log = logging.getLogger(__name__)

OBSERVE_SECONDS = 2.0
SWITCH_SECONDS = 0.0005
"""Between the loop and the thread that masks; Python's 5 ms would hold up all others each time."""
BACKLOG = 4096


@dataclass(frozen=True)
class Shared:
    """What the workers of one gateway have in common."""

    sock: socket.socket
    """Bound to the address of them all."""
    folder: Path
    """For as long as the gateway runs: counts of metrics and limits."""


class Gateway:
    """Answers every request: the hot routes itself, the others through FastAPI."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._hot = Hot(parts)
        self._app = app.build(parts)
        self._cors = Cors(parts.service.gateway.cors)
        self._max_in_flight = parts.service.gateway.max_concurrent

    def early(self, request: Request) -> Refusal | None:
        """Refuse by the head alone when there is no room, so that memory stays bounded."""
        if request.head.method != b"POST":
            return None
        if self._parts.in_flight >= self._max_in_flight:
            return Refusal(503, "The gateway is overloaded.", "overloaded", retry_after_seconds=1)
        if not self._parts.recorder.accepting:
            return full()
        return None

    def handle(self, request: Request, client: Client) -> Work | None:
        """Answer one request."""
        head = request.head
        endpoint = ENDPOINTS.get(head.path)
        if endpoint is not None and head.method == b"POST":
            return self._hot.answer(request, client, endpoint)
        preflight = self._cors.preflight(head)
        if preflight is not None:
            client.respond(*preflight, b"")
            client.finished()
            return None
        route = route_of(head.path)
        if route is not None:
            return Passing(self._hot, request, client, route).start()
        return asgi.run(self._app, request, client)

    def lines(self, head: Head) -> bytes:
        """For browsers."""
        return self._cors.lines(head.known)

    async def stop(self) -> None:
        """Give up the copies that nobody waits for."""
        for task in self._hot.shadows:
            task.cancel()
        if self._hot.shadows:
            await asyncio.wait(self._hot.shadows, timeout=5.0)

    def refuse(self, request: Request, refusal: Refusal, client: Client) -> None:
        """Send and capture what was refused before it was looked at."""
        self._hot.refuse(request, client, ENDPOINTS.get(request.path, ""), refusal)


def build_parts(
    service: Service,
    tasks: dict[str, Task],
    worker: int = 0,
    shared: Shared | None = None,
) -> Parts:
    """A worker's parts; opens the write-ahead log."""
    loop = asyncio.get_running_loop()
    settings = service.gateway
    counters = None
    if shared is not None:
        counters = SharedCounters(shared.folder / LIMITS_FILE, settings.workers, worker)
    return Parts(
        service=service,
        tasks=tasks,
        table=RouteTable(service.routes_path, tasks, service.upstreams),
        upstreams={
            name: Upstream(name, one, logprobs=settings.capture.logprobs)
            for name, one in service.upstreams.items()
        },
        recorder=Recorder(
            service.wal_path,
            worker,
            settings.capture,
            open_telemetry("everlearn-gateway"),
            tell_all=service.logging.requests,
        ),
        keyring=Keyring(
            settings.keys,
            loop.time,
            require=settings.require_key,
            counters=counters,
            read=False,
            local=None if settings.insecure else Local(settings.cors.allowed_origins),
        ),
        metrics=Metrics(worker, shared.folder if shared else None),
        worker=worker,
    )


@contextlib.asynccontextmanager
async def running(
    service: Service, tasks: dict[str, Task], worker: int = 0, limits: Limits | None = None,
    shared: Shared | None = None,
) -> Any:  # fmt: skip
    """A gateway that serves for the length of the context; yields its server."""
    parts = build_parts(service, tasks, worker, shared)
    settings = service.gateway
    gateway = Gateway(parts)
    server = Server(gateway, limits or Limits(body_bytes=settings.max_body_bytes))
    parts.server = server
    where: dict[str, Any] = {"host": settings.host, "port": settings.port}
    if shared is not None:
        where = {"sock": shared.sock}
    repeated = [
        Every(POLL_SECONDS, parts.table.refresh),
        Every(FOLDER_SECONDS, TaskFolder(service, parts.tasks, parts.table).look),
        Every(SWEEP_SECONDS, partial(_sweep, parts)),
        Every(OBSERVE_SECONDS, parts.observe),
    ]
    loop = asyncio.get_running_loop()
    watches = [loop.create_task(upstream.watch()) for upstream in parts.upstreams.values()]
    keys = KeyStore(service, parts.keyring)
    # Without an address the store is this folder's own, and so is the file that is written here.
    follows = worker == 0 and bool(service.state.url)
    routes = RouteStore(service, parts.table) if follows else None
    try:
        if routes is not None:
            await routes.start()
        await keys.start()
        if worker == 0 and not parts.keyring.required:
            log.warning("no key is asked for: whoever reaches %s is believed", settings.host)
        await server.listen(**where, backlog=BACKLOG)
        yield server
    finally:
        await server.stop(settings.drain_seconds)
        await gateway.stop()
        for one in repeated:
            one.stop()
        for task in watches:
            task.cancel()
        for upstream in parts.upstreams.values():
            upstream.close()
        keys.stop()
        if routes is not None:
            routes.stop()
        parts.recorder.close()


async def serve(
    service: Service, tasks: dict[str, Task], worker: int = 0, shared: Shared | None = None
) -> None:
    """Serve until SIGTERM or SIGINT, then drain."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(service, tasks, worker, shared=shared) as server:
        # What is alive now stays; requests make little garbage in cycles.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 50, 50)
        sys.setswitchinterval(SWITCH_SECONDS)
        log.info("worker %d listens on %s:%d", worker, service.gateway.host, server.port)
        await stop.wait()
        log.info("worker %d drains", worker)


def _sweep(parts: Parts) -> None:
    parts.recorder.sweep()
    now = asyncio.get_running_loop().time()
    for upstream in parts.upstreams.values():
        upstream.sweep(now)

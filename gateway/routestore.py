"""Routes of the state store, where that is a server's: every host's gateway follows them.

A thread of its own asks for them, because a database that hangs must not hold the event loop, and
writes what has changed to this host's `routes.json`: the table in force is read from there as
always, and is there when the store is away or this gateway starts without it.
"""

import asyncio
import contextlib
import logging
import threading
from typing import TYPE_CHECKING, Any

import msgspec

from everlearn.config import Service
from gateway.routes import KIND, TaskRoute, alone, swap
from gateway.table import RouteTable

if TYPE_CHECKING:
    from everlearn.state import State

log = logging.getLogger(__name__)

POLL_SECONDS = 0.3
START_SECONDS = 5.0
"""How long a start waits for the first answer; then the file must do."""
STOP_SECONDS = 2.0


class RouteStore:
    """Follows the store for the workers of one host; the first of them has it."""

    def __init__(self, service: Service, table: RouteTable) -> None:
        self._service, self._table = service, table
        self._loop = asyncio.get_running_loop()
        self._state: State | None = None
        self._seen: dict[str, TaskRoute] = {}
        self._away = False
        self._stop = threading.Event()
        self._first = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="routes", daemon=True)

    async def start(self) -> None:
        """Begin; returns once the routes are known, or after `START_SECONDS`."""
        self._thread.start()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._first.wait(), START_SECONDS)

    def stop(self) -> None:
        """End."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._follow()
                self._away = False
            except Exception as error:  # whatever a database driver raises
                if not self._away:
                    log.error("routes are followed no more, and stay as they are: %s", error)
                self._away = True
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._first.set)
            self._stop.wait(POLL_SECONDS)
        if self._state is not None:
            self._state.close()

    def _follow(self) -> None:
        """Only what changed in the store is written: a controller of this host may be ahead."""
        if self._state is None:
            from everlearn.state import open_state

            self._state = open_state(self._service)
        found = dict(_routes(self._state.all(KIND)))
        changed = {task: route for task, route in found.items() if self._seen.get(task) != route}
        if not changed:
            return
        with alone(self._service.routes_path):
            swap(self._service.routes_path, changed)
        self._seen = found
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._table.refresh)


def _routes(documents: list[tuple[str, dict[str, Any]]]) -> list[tuple[str, TaskRoute]]:
    routes = []
    for task, document in documents:
        if "route" not in document:
            continue
        try:
            routes.append((task, msgspec.convert(document["route"], TaskRoute)))
        except msgspec.ValidationError as error:
            log.error("task %s: the route in the state store is left out: %s", task, error)
    return routes

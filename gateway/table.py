"""The live copy of `routes.json`: looked at twice a second, off the path of requests."""

import logging
from pathlib import Path

import msgspec

from everlearn.task import Task
from gateway.routes import ArmRoute, Routes, TaskRoute, read_routes

log = logging.getLogger(__name__)

POLL_SECONDS = 0.4


class RouteTable:
    """Routes of every task; a task without one is answered by its base model."""

    def __init__(self, path: Path, tasks: dict[str, Task]) -> None:
        self._path = path
        self._base = {
            name: TaskRoute(champion=ArmRoute(version="base", model=task.base_name))
            for name, task in tasks.items()
        }
        self._stamp: tuple[int, int, int] | None = None
        self.routes: dict[str, TaskRoute] = dict(self._base)
        self.generation = 0
        self.error: str | None = None
        """Why the file on disk is not the table in force."""
        self.refresh()

    def refresh(self) -> bool:
        """Read the file if it changed; a bad one keeps the table in force. True if swapped."""
        stamp = self._look()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            self._take(read_routes(self._path))
        except (msgspec.MsgspecError, OSError, UnicodeDecodeError) as error:
            self.error = f"{self._path.name}: {error}"
            log.error("routes kept as they were: %s", self.error)
            return False
        return True

    def _take(self, routes: Routes) -> None:
        known = {name: route for name, route in routes.tasks.items() if name in self._base}
        self.routes = {**self._base, **known}
        self.generation, self.error = routes.generation, None

    def _look(self) -> tuple[int, int, int] | None:
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_ino, stat.st_size

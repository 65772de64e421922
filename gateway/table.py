"""The live copy of `routes.json`: looked at twice a second, off the path of requests.

- A bad file keeps the table in force. At a start, where none is in force yet, the last good table
  is: a copy of it is kept beside the log.
- An arm that names an upstream the config does not know makes a bad file.
"""

import contextlib
import logging
from collections.abc import Collection, Iterator
from pathlib import Path

import msgspec

from everlearn.task import Task
from gateway.routes import ArmRoute, Routes, TaskRoute, read_routes, write_routes

log = logging.getLogger(__name__)

POLL_SECONDS = 0.4
LAST = "routes-last-good.json"


class RouteTable:
    """Routes of every task; a task without one is answered by its base model, or by the champion
    that its file names."""

    def __init__(
        self, path: Path, tasks: dict[str, Task], upstreams: Collection[str] | None = None
    ) -> None:
        """`upstreams`: the names that an arm may give; None: any."""
        self._path = path
        self._last = path.with_name(LAST)
        self._upstreams = upstreams
        self.base = _base(tasks)
        """What is in force where no route is."""
        self._read: dict[str, TaskRoute] = {}
        self._stamp: tuple[int, int, int] | None = None
        self.routes: dict[str, TaskRoute] = dict(self.base)
        self.generation = 0
        self.error: str | None = None
        """Why the file on disk is not the table in force."""
        self.refresh()
        if self.error is not None:
            self._take_last()

    def refresh(self) -> bool:
        """Read the file if it changed; a bad one keeps the table in force. True if swapped."""
        stamp = self._look()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            routes = read_routes(self._path)
            self._check(routes)
        except (msgspec.MsgspecError, OSError, ValueError) as error:
            self.error = f"{self._path.name}: {error}"
            log.error("routes kept as they were: %s", self.error)
            return False
        self._take(routes)
        if stamp is not None:
            with contextlib.suppress(OSError):  # a full disk costs the copy, not the routes
                write_routes(self._last, routes, sync=False)
        return True

    def declare(self, tasks: dict[str, Task]) -> None:
        """Answer these tasks too."""
        self.base |= _base(tasks)
        self._route()

    def _check(self, routes: Routes) -> None:
        for task, route in routes.tasks.items():
            for arm in _arms(route):
                known = self._upstreams is None or arm.upstream in (None, *self._upstreams)
                if not known:
                    raise ValueError(
                        f"tasks.{task}: upstream {arm.upstream!r} is not one of the config: "
                        f"{', '.join(sorted(self._upstreams or ()))}"
                    )

    def _take(self, routes: Routes) -> None:
        self._read = routes.tasks
        self._route()
        self.generation, self.error = routes.generation, None

    def _route(self) -> None:
        known = {name: route for name, route in self._read.items() if name in self.base}
        self.routes = {**self.base, **known}

    def _take_last(self) -> None:
        error = self.error
        try:
            routes = read_routes(self._last)
            self._check(routes)
        except (msgspec.MsgspecError, OSError, ValueError):
            log.error("no last good routes either: tasks are answered by their base models")
            return
        self._take(routes)
        self.error = f"{error}; in force is the last good table, generation {routes.generation}"
        log.error("routes: %s", self.error)

    def _look(self) -> tuple[int, int, int] | None:
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_ino, stat.st_size


def _base(tasks: dict[str, Task]) -> dict[str, TaskRoute]:
    return {name: TaskRoute(champion=first_arm(task)) for name, task in tasks.items()}


def first_arm(task: Task) -> ArmRoute:
    """Who answers a task before a version of ours does."""
    if task.champion is None:
        return ArmRoute(version="base", model=task.base_name)
    return ArmRoute(version="base", model=task.champion.model, upstream=task.champion.upstream)


def _arms(route: TaskRoute) -> Iterator[ArmRoute]:
    for arm in (route.champion, route.challenger, *route.challengers, route.holdback):
        if arm is not None:
            yield arm

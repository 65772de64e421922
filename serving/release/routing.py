"""`routes.json` of a task from its traffic document, and the only writer of that file."""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.routes import Routes, TaskRoute, read_routes, write_routes
from serving.release.states import Phase, Traffic, watching


def render(traffic: Traffic) -> TaskRoute:
    """The route that the document stands for."""
    release = traffic.release
    ramping = release is not None and release.phase is Phase.RAMPING
    # One question at a time: a watch waits while another version is compared.
    asked = release if ramping else watching(traffic)
    holdback, watched = traffic.holdback, 0.0
    if asked is not None and asked.watch:
        holdback, watched = traffic.last_good, asked.parsed_rules.watch_percent
    return TaskRoute(
        champion=traffic.champion,
        challenger=release.candidate if ramping and release else None,
        release=asked.release_id if asked else None,
        stage=asked.stage if asked else None,
        challenger_share=release.percent / 100 if ramping and release else 0.0,
        holdback=holdback,
        holdback_share=traffic.holdback_percent / 100 if holdback else 0.0,
        watch_share=watched / 100,
    )


def put_route(path: Path, task: str, route: TaskRoute) -> bool:
    """Swap the task's route, other tasks' untouched; False if it stood there already."""
    with _alone(path):
        return _swap(path, task, route)


def sync_route(path: Path, task: str, read: Callable[[], Traffic | None]) -> bool:
    """Make the route what the document says; without a document nothing is written.

    The document is read while nobody else can write routes: an older one never overwrites a newer.
    """
    with _alone(path):
        traffic = read()
        return traffic is not None and _swap(path, task, render(traffic))


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _swap(path: Path, task: str, route: TaskRoute) -> bool:
    table = read_routes(path)
    if table.tasks.get(task) == route:
        return False
    tasks = {**table.tasks, task: route}
    write_routes(path, Routes(generation=table.generation + 1, tasks=tasks))
    return True

"""What the pages read: the config, its tasks, the lake and the state store, opened when first asked
for.

What a page says is bounded: by a time, a partition or a number of rows. Only the tally, which the
collector keeps up by what is new, is of everything.
"""

import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

from fastapi import Depends, Request

from collector.ledger import ledger, totals
from collector.tally import Gateway, Tally, tally
from console.render import TEMPLATES, whose
from console.session import Person
from evaluators.queue import Queue
from everlearn.config import Service
from everlearn.errors import EverlearnError, NotFound
from everlearn.lake.ducklake import DuckLake, open_lake
from everlearn.state import State, open_state
from everlearn.task import Task, load_task, read_tasks, tasks_stamp

__all__ = ["TEMPLATES", "Asks", "Read", "Source"]

Answer = TypeVar("Answer")

LOOK_SECONDS = 3.0
"""Between two looks for something new."""
SHARE, CHEAP_SECONDS = 0.02, 0.05
"""Of a processor, for each look that is dear; seconds of it below which one is cheap."""
DAY = timedelta(days=1)
"""What pages call lately."""


class Kept(NamedTuple, Generic[Answer]):
    """What was found, and when: pages say how old it is."""

    at: float
    until: float
    """By the monotonic clock."""
    value: Answer


class Source:
    """One per application."""

    def __init__(self, service: Service, config: Path | None = None) -> None:
        self.service = service
        self.config = config or service.root / "everlearn.yaml"
        """The file, for the verbs that a button runs."""
        self._lake: DuckLake | None = None
        self._state: State | None = None
        self._tasks: tuple[tuple[object, ...], dict[str, Task]] | None = None
        self._kept: dict[Hashable, Kept[Any]] = {}
        self._seen = (float("-inf"), -1)
        self._lock, self._looking = Lock(), Lock()

    @property
    def lake(self) -> DuckLake:
        """The lake, for reading only."""
        with self._lock:
            if self._lake is None:
                self._lake = open_lake(self.service, read_only=True)
            return self._lake

    @property
    def state(self) -> State:
        """The state store."""
        with self._lock:
            if self._state is None:
                self._state = open_state(self.service)
            return self._state

    def queue(self, task: Task) -> Queue:
        """The task's label queue."""
        return Queue(self.state, task)

    @property
    def gateway(self) -> str:
        return f"http://{self.service.gateway.host}:{self.service.gateway.port}"

    def tasks(self) -> dict[str, Task]:
        """As the files say now."""
        stamp = tasks_stamp(self.service)
        if self._tasks is None or self._tasks[0] != stamp:
            self._tasks = (stamp, read_tasks(self.service).tasks)
        return self._tasks[1]

    def task(self, name: str) -> Task:
        """NotFound with the names that exist."""
        return load_task(self.service, name)

    def rows(self, sql: str, params: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """What the lake answers."""
        rows: list[dict[str, Any]] = self.lake.read(sql, params).to_pylist()
        return rows

    def row(self, sql: str, params: Sequence[Any] = ()) -> dict[str, Any]:
        """The one row of an aggregate."""
        return self.rows(sql, params)[0]

    def counts(self) -> Tally:
        """The counts of everything, all of one lake snapshot."""
        return self.kept("tally", lambda: tally(self.lake)).value

    def kept(
        self, key: Hashable, make: Callable[[], Answer], *, seconds: float | None = None
    ) -> "Kept[Answer]":
        """What `make` found up to `seconds` ago; without, as long ago as keeps the looks of all who
        watch to `SHARE` of a processor, and what is cheap is looked at anew."""
        found, now = self._kept.get(key), time.monotonic()
        if found is None or now >= found.until:
            at, cpu = time.time(), time.process_time()
            value = make()
            cpu = time.process_time() - cpu
            if seconds is None:
                seconds = cpu / SHARE if cpu > CHEAP_SECONDS else 0.0
            found = Kept(at, now + seconds, value)
            live = {name: each for name, each in self._kept.items() if each.until > now}
            self._kept = {**live, key: found}
        return found

    def capture(self) -> "Kept[dict[str, Any]]":
        """The ledger, and when it was drawn up."""

        def counted() -> dict[str, Gateway]:
            # Counted after what the gateways say: else what came in between would be missing.
            self._kept.pop("tally", None)
            return self.counts().gateways

        return self.kept("capture", lambda: totals(ledger(self.service, self.lake, counted)))

    def pulse(self) -> int:
        """The lake's newest snapshot, one look for all who listen; -1 while the lake is away."""
        with self._looking:
            if time.monotonic() - self._seen[0] >= LOOK_SECONDS:
                try:
                    snapshot = self.lake.snapshot_id()
                except EverlearnError:
                    snapshot = -1
                self._seen = (time.monotonic(), snapshot)
            return self._seen[1]

    def close(self) -> None:
        """Detach the lake, drop the connections."""
        for held in (self._lake, self._state):
            if held is not None:
                held.close()


class Asked:
    """The tasks that a page is about: what its address says, within what the person may see."""

    def __init__(self, request: Request, task: str = "") -> None:
        source: Source = request.app.state.source
        self.person: Person = whose(request.scope)
        known = source.tasks()
        self.all = {name: known[name] for name in sorted(known) if self.person.sees(name)}
        if task and task not in self.all:
            there = ", ".join(self.all) or "none that you may see"
            raise NotFound(f"no task {task!r}; there are: {there}")
        self.task = task
        """Empty: all."""
        self.tasks = {task: self.all[task]} if task else self.all

    @property
    def one(self) -> str:
        """The task of a page that shows one: the address's, else the first; empty without any."""
        return next(iter(self.tasks), "")

    def href(self, path: str) -> str:
        """The address of another page about the same task."""
        return f"{path}?task={self.task}" if self.task else path

    def where(self, column: str = "task", place: str = "?") -> tuple[str, list[Any]]:
        """The condition on a task column, with its parameter. Who may see all sees what has no task
        or one that no file declares any more, too."""
        if not self.task and not self.person.tasks:
            return "true", []
        return f"{column} IN (SELECT unnest({place}::VARCHAR[]))", [list(self.tasks)]


def sees(person: Person, task: str | None, what: str) -> None:
    """NotFound for what belongs to a task that the person may not see."""
    if not person.sees(task):
        raise NotFound(f"no {what} that you may see")


def marks(values: Iterable[Any]) -> str:
    """`?, ?, ?`: told one by one, the lake skips files by them."""
    return ", ".join("?" for _ in values)


def _source(request: Request) -> Source:
    source = request.app.state.source
    assert isinstance(source, Source)
    return source


Read = Annotated[Source, Depends(_source)]
Asks = Annotated[Asked, Depends(Asked)]

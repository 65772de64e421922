"""What the pages read: the config, its tasks and the lake, opened when first asked for."""

from pathlib import Path
from threading import Lock
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.templating import Jinja2Templates

from evaluators.queue import Queue
from everlearn.config import Service
from everlearn.lake.ducklake import DuckLake, open_lake
from everlearn.state import State, open_state
from everlearn.task import Task, load_task, read_tasks

TEMPLATES = Jinja2Templates(directory=Path(__file__).parent / "templates")


class Source:
    """One per application."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._lake: DuckLake | None = None
        self._state: State | None = None
        self._lock = Lock()

    @property
    def lake(self) -> DuckLake:
        """The lake, for reading only."""
        with self._lock:
            if self._lake is None:
                self._lake = open_lake(self.service, read_only=True)
            return self._lake

    def queue(self, task: Task) -> Queue:
        """The task's label queue."""
        with self._lock:
            if self._state is None:
                self._state = open_state(self.service)
            return Queue(self._state, task)

    @property
    def gateway(self) -> str:
        return f"http://{self.service.gateway.host}:{self.service.gateway.port}"

    def tasks(self) -> dict[str, Task]:
        """As the files say now."""
        return read_tasks(self.service).tasks

    def task(self, name: str) -> Task:
        """NotFound with the names that exist."""
        return load_task(self.service, name)

    def rows(self, sql: str, params: list[Any]) -> list[dict[str, Any]]:
        """What the lake answers."""
        rows: list[dict[str, Any]] = self.lake.read(sql, params).to_pylist()
        return rows

    def close(self) -> None:
        """Detach the lake and the state store."""
        if self._lake is not None:
            self._lake.close()
        if self._state is not None:
            self._state.close()


def _source(request: Request) -> Source:
    source = request.app.state.source
    assert isinstance(source, Source)
    return source


Read = Annotated[Source, Depends(_source)]

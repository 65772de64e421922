"""What the pages read: the config, its tasks and the lake, opened when first asked for."""

from collections import deque
from pathlib import Path
from threading import Lock
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.templating import Jinja2Templates

from everlearn.config import Service
from everlearn.lake.ducklake import DuckLake, open_lake
from everlearn.task import Task, load_task, read_tasks

TEMPLATES = Jinja2Templates(directory=Path(__file__).parent / "templates")


JUDGED = 1000


class Source:
    """One per application."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.judged: deque[str] = deque(maxlen=JUDGED)
        """Completions labelled here lately; their labels may be on the way to the lake."""
        self._lake: DuckLake | None = None
        self._lock = Lock()

    @property
    def lake(self) -> DuckLake:
        """The lake, for reading only."""
        with self._lock:
            if self._lake is None:
                self._lake = open_lake(self.service, read_only=True)
            return self._lake

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
        """Detach the lake."""
        if self._lake is not None:
            self._lake.close()


def _source(request: Request) -> Source:
    source = request.app.state.source
    assert isinstance(source, Source)
    return source


Read = Annotated[Source, Depends(_source)]

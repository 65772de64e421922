"""The folder of task files, looked at while the gateway runs.

- A file that comes or changes is taken up; what a file declared stays until the next start.
- A broken file is said and leaves its task as it is.
- Files are read beside the loop of requests.
"""

import asyncio
import logging

from everlearn.config import Service
from everlearn.task import Task, running_tasks, tasks_stamp
from gateway.table import RouteTable

log = logging.getLogger(__name__)

POLL_SECONDS = 2.0


class TaskFolder:
    """Brings `tasks` and `table` up to date."""

    def __init__(self, service: Service, tasks: dict[str, Task], table: RouteTable) -> None:
        self._service, self._tasks, self._table = service, tasks, table
        self._stamp = tasks_stamp(service)
        self._reading: asyncio.Future[dict[str, Task]] | None = None

    def look(self) -> None:
        """Begin to read the files if one has changed."""
        stamp = tasks_stamp(self._service)
        if stamp == self._stamp or self._reading is not None:
            return
        self._stamp = stamp
        loop = asyncio.get_running_loop()
        self._reading = loop.run_in_executor(None, running_tasks, self._service)
        self._reading.add_done_callback(self._take)

    def _take(self, reading: "asyncio.Future[dict[str, Task]]") -> None:
        self._reading = None
        if reading.cancelled():
            return
        if error := reading.exception():
            log.error("task files: %s: %s", type(error).__name__, error)
            return
        found = reading.result()
        for name in found.keys() - self._tasks.keys():
            log.info("task %s is declared now", name)
        self._tasks.update(found)
        self._table.declare(found)

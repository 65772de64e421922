"""Traffic that goes on in the background, and a clock on how fast its rows arrive."""

import asyncio
import threading
import time
from types import TracebackType

from everlearn.config import Service
from examples.text2sql.traffic import Traffic


class LiveTraffic:
    """Runs `Traffic` on its own thread until the block ends; the rate may change at any time."""

    def __init__(self, traffic: Traffic) -> None:
        self.traffic = traffic
        self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)
        self._error: BaseException | None = None

    def _run(self) -> None:
        try:
            asyncio.run(self.traffic.run())
        except BaseException as error:
            self._error = error

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self.traffic

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.traffic.stop()
        self._thread.join(timeout=60)
        if self._error is not None and error is None:
            raise self._error


class Arrivals:
    """When each completion could first be queried, by polling the lake as any user could."""

    def __init__(self, service: Service, every_seconds: float = 0.2) -> None:
        self.first_seen: dict[str, float] = {}
        """Completion id to Unix seconds."""
        self._service = service
        self._every_seconds = every_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="arrivals", daemon=True)

    def _run(self) -> None:
        from everlearn.lake.ducklake import open_lake

        lake = open_lake(self._service, read_only=True)
        query = "SELECT completion_id FROM completions WHERE received_at > to_timestamp(?)"
        while not self._stop.wait(self._every_seconds):
            ids = lake.read(query, (time.time() - 30,)).column(0).to_pylist()
            now = time.time()
            for completion_id in ids:
                self.first_seen.setdefault(completion_id, now)
        lake.close()

    def __enter__(self) -> "Arrivals":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=30)

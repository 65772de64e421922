"""What a worker is made of."""

from dataclasses import dataclass, field

from everlearn.config import Service
from everlearn.task import Task
from gateway.capture import Recorder
from gateway.keys import Keyring
from gateway.metrics import Metrics
from gateway.server import Server
from gateway.table import RouteTable
from gateway.upstream import Upstream


@dataclass
class Parts:
    """Shared by the hot routes and the others."""

    service: Service
    tasks: dict[str, Task]
    table: RouteTable
    upstreams: dict[str, Upstream]
    recorder: Recorder
    keyring: Keyring
    metrics: Metrics
    worker: int = 0
    in_flight: int = 0
    server: Server | None = field(default=None, repr=False)

    @property
    def default_upstream(self) -> Upstream | None:
        """For models that are no task."""
        name = self.service.default_upstream
        return self.upstreams[name] if name is not None else None

    def observe(self) -> None:
        """Bring the gauges up to date."""
        self.metrics.observe(
            stats=self.recorder.stats(),
            errors=self.recorder.errors,
            in_flight=self.in_flight,
            connections=len(self.server.clients) if self.server else 0,
            retries=sum(upstream.retries for upstream in self.upstreams.values()),
        )

"""What a worker is made of."""

from dataclasses import dataclass, field

from everlearn.config import Service
from everlearn.task import Task
from gateway.capture import Recorder
from gateway.http.server import Server
from gateway.keys import Keyring
from gateway.metrics import Metrics
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
        stats = self.recorder.stats()
        self.metrics.gauge(
            gateway_in_flight=self.in_flight,
            gateway_connections=len(self.server.clients) if self.server else 0,
            gateway_retries=sum(upstream.retries for upstream in self.upstreams.values()),
            capture_acknowledged=stats.acknowledged,
            capture_dropped=stats.dropped,
            capture_errors=self.recorder.errors,
            capture_bytes=stats.bytes,
        )
        self.metrics.publish()

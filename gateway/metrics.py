"""Prometheus metrics; names of the OpenTelemetry GenAI conventions where they exist."""

import functools
import os

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)

from everlearn.wal import WalStats

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576)


class Metrics:
    """Of one worker; with several, each scrape sums over all of them."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self._requests = Counter(
            "everlearn_gateway_requests",
            "Requests by what became of them.",
            ("endpoint", "task", "arm", "status", "code"),
            registry=registry,
        )
        self._duration = Histogram(
            "gen_ai_server_request_duration_seconds",
            "From the request's first byte to the answer's last.",
            ("gen_ai_operation_name", "task", "arm"),
            registry=registry,
            buckets=SECONDS,
        )
        self._first = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "From the request's first byte to a stream's first piece.",
            ("gen_ai_operation_name", "task", "arm"),
            registry=registry,
            buckets=SECONDS,
        )
        self._tokens = Histogram(
            "gen_ai_client_token_usage",
            "Tokens of one request, where the upstream says.",
            ("gen_ai_token_type", "task", "arm"),
            registry=registry,
            buckets=TOKENS,
        )
        self.feedback = Counter(
            "everlearn_gateway_feedback", "Feedback received.", ("status",), registry=registry
        )
        self.fallbacks = Counter(
            "everlearn_gateway_fallbacks",
            "Requests answered by the next in line.",
            ("fallback_from",),
            registry=registry,
        )
        self._gauges = {
            name: Gauge(
                f"everlearn_{name}", help_text, registry=registry, multiprocess_mode="livesum"
            )
            for name, help_text in (
                ("gateway_in_flight", "Requests being answered."),
                ("gateway_connections", "Client connections."),
                ("gateway_retries", "Requests sent to an upstream once more."),
                ("capture_acknowledged", "Events in the write-ahead log since it exists."),
                ("capture_dropped", "Events lost to a full log or disk since it exists."),
                ("capture_errors", "Events lost to an unexpected error in this run."),
                ("capture_bytes", "Bytes of the log that still stand here."),
            )
        }
        self.count = functools.lru_cache(4096)(self._count)
        self.duration = functools.lru_cache(1024)(self._duration.labels)
        self.first_token = functools.lru_cache(1024)(self._first.labels)
        self.tokens = functools.lru_cache(1024)(self._tokens.labels)

    def _count(self, endpoint: str, task: str, arm: str, status: str, code: int) -> Counter:
        return self._requests.labels(endpoint, task, arm, status, str(code))

    def observe(
        self, *, stats: WalStats, errors: int, in_flight: int, connections: int, retries: int
    ) -> None:
        """Set the gauges; called now and then and before a scrape."""
        for name, value in (
            ("gateway_in_flight", in_flight),
            ("gateway_connections", connections),
            ("gateway_retries", retries),
            ("capture_acknowledged", stats.acknowledged),
            ("capture_dropped", stats.dropped),
            ("capture_errors", errors),
            ("capture_bytes", stats.bytes),
        ):
            self._gauges[name].set(value)

    def render(self) -> bytes:
        """The text of a scrape."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self._registry)
        together = CollectorRegistry()
        multiprocess.MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)

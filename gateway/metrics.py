"""Prometheus metrics; names of the OpenTelemetry GenAI conventions where they exist.

Counting is a lookup and an addition; everything else happens at the scrape. Several workers leave
their numbers as files in one folder, and whoever is scraped adds them up.
"""

import contextlib
import os
import re
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from everlearn.events import Completion
from everlearn.telemetry import OPERATIONS

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
TOKENS = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0)
DURATION = "gen_ai_server_request_duration_seconds"
FIRST_TOKEN = "gen_ai_server_time_to_first_token_seconds"
TOKEN_USAGE = "gen_ai_client_token_usage"
REQUESTS = "everlearn_gateway_requests"
FEEDBACK = "everlearn_gateway_feedback"
FALLBACKS = "everlearn_gateway_fallbacks"
DROPPED = "everlearn_capture_dropped"

COUNTERS = {
    REQUESTS: (
        "Requests by what became of them.",
        ("endpoint", "task", "arm", "status", "code"),
    ),
    FEEDBACK: ("Feedback received.", ("status",)),
    FALLBACKS: ("Requests answered by the next in line.", ("fallback_from",)),
}
HISTOGRAMS = {
    DURATION: (
        "From the request's first byte to the answer's last.",
        ("gen_ai_operation_name", "task", "arm"),
        SECONDS,
    ),
    FIRST_TOKEN: (
        "From the request's first byte to a stream's first piece.",
        ("gen_ai_operation_name", "task", "arm"),
        SECONDS,
    ),
    TOKEN_USAGE: (
        "Tokens of one request, where the upstream says.",
        ("gen_ai_token_type", "task", "arm"),
        TOKENS,
    ),
}
GAUGES = {
    "everlearn_gateway_in_flight": "Requests being answered.",
    "everlearn_gateway_connections": "Client connections.",
    "everlearn_gateway_retries": "Requests sent to an upstream once more.",
    "everlearn_capture_acknowledged": "Events in the write-ahead log since it exists.",
    DROPPED: "Events lost to a full log or disk since it exists.",
    "everlearn_capture_errors": "Events lost to an unexpected error in this run.",
    "everlearn_capture_bytes": "Bytes of the log that still stand here.",
}

_KINDS = {b"prompt": "input", b"input": "input", b"completion": "output", b"output": "output"}
_USAGE = re.compile(rb'"(prompt|completion|input|output)_tokens"\s*:\s*(\d{1,9})')
_USUAL = re.compile(
    rb'"usage":\s*\{\s*"prompt_tokens":\s*(\d{1,9}),\s*'
    rb'(?:"total_tokens":\s*\d{1,9},\s*)?"completion_tokens":\s*(\d{1,9})'
)
"""As OpenAI and vLLM write it: a third of the cost."""

Key = tuple[str, ...]
"""Metric name, then label values."""


class Snapshot(msgspec.Struct):
    """A worker's numbers."""

    counters: dict[Key, float]
    histograms: dict[Key, list[float]]
    """Counts per bucket (the last one has no upper bound), then the sum."""
    gauges: dict[str, float]


class Metrics:
    """The numbers of one worker."""

    def __init__(self, worker: int = 0, folder: Path | None = None) -> None:
        """`folder`: where the workers of one gateway leave their numbers for each other."""
        self._own = Snapshot({}, {}, {})
        self._known: dict[tuple[str | int | None, ...], tuple[Key, list[float]]] = {}
        """Counter and durations of the requests seen so far, by what they have in common."""
        self._tokens: dict[tuple[str | None, str | None], tuple[list[float], list[float]]] = {}
        """Tokens asked and answered, by task and arm."""
        self._folder = folder
        self._file = folder / f"{worker}.metrics" if folder is not None else None

    def count(self, *key: str) -> None:
        """Add one to a counter."""
        counters = self._own.counters
        counters[key] = counters.get(key, 0.0) + 1.0

    def completed(self, event: Completion) -> None:
        """Count one captured request."""
        task, arm = event.task, event.arm
        row = (event.endpoint, task, arm, event.status, event.http_status)
        known = self._known.get(row)
        if known is None:
            code, operation = str(event.http_status), OPERATIONS.get(event.endpoint, "")
            key = (REQUESTS, event.endpoint, task or "", arm or "", event.status, code)
            known = self._known[row] = key, self._cells(SECONDS, DURATION, operation, task, arm)
            self._own.counters[key] = 0.0
        self._own.counters[known[0]] += 1.0
        _add(known[1], SECONDS, event.latency_ms / 1000)
        if event.first_token_ms is not None:
            cells = self._cells(SECONDS, FIRST_TOKEN, OPERATIONS.get(event.endpoint, ""), task, arm)
            _add(cells, SECONDS, event.first_token_ms / 1000)

    def usage(self, response: bytes, task: str | None, arm: str | None) -> int:
        """Count the tokens that the upstream names at the end of its answer; their sum."""
        at = response.rfind(b'"usage"')
        if at < 0:
            return 0
        usual = _USUAL.match(response, at)
        if usual is None:
            return self._unusual(response, at, task, arm)
        asked, answered = float(usual[1]), float(usual[2])
        cells = self._tokens.get((task, arm))
        if cells is None:
            cells = self._tokens[task, arm] = (
                self._cells(TOKENS, TOKEN_USAGE, "input", task, arm),
                self._cells(TOKENS, TOKEN_USAGE, "output", task, arm),
            )
        _add(cells[0], TOKENS, asked)
        _add(cells[1], TOKENS, answered)
        return int(asked + answered)

    def _unusual(self, response: bytes, at: int, task: str | None, arm: str | None) -> int:
        # The last of each name: the streams of some upstreams carry a running count.
        last = {_KINDS[name]: value for name, value in _USAGE.findall(response, at, at + 1024)}
        for kind, digits in last.items():
            _add(self._cells(TOKENS, TOKEN_USAGE, kind, task, arm), TOKENS, int(digits))
        return sum(map(int, last.values()))

    def _cells(
        self, bounds: tuple[float, ...], name: str, kind: str, task: str | None, arm: str | None
    ) -> list[float]:
        key = (name, kind, task or "", arm or "")
        cells = self._own.histograms.get(key)
        if cells is None:
            cells = self._own.histograms[key] = [0.0] * (len(bounds) + 2)
        return cells

    def gauge(self, **values: float) -> None:
        """Set gauges, named without their `everlearn_`."""
        for name, value in values.items():
            self._own.gauges[f"everlearn_{name}"] = value

    def publish(self) -> None:
        """Leave the numbers where the other workers find them."""
        if self._file is not None:
            fresh = self._file.with_suffix(".new")
            fresh.write_bytes(msgspec.msgpack.encode(_listed(self._own)))
            os.replace(fresh, self._file)

    def render(self) -> bytes:
        """The text of a scrape, over all workers."""
        registry = CollectorRegistry()
        registry.register(_Families(self._all()))
        return generate_latest(registry)

    def total(self, gauge: str) -> float:
        """A gauge over all workers, by its whole name."""
        return self._all().gauges.get(gauge, 0.0)

    def _all(self) -> Snapshot:
        if self._folder is None:
            return self._own
        self.publish()
        return _sum([_read(path) for path in sorted(self._folder.glob("*.metrics"))])


def _add(cells: list[float], bounds: tuple[float, ...], value: float) -> None:
    cells[bisect_left(bounds, value)] += 1.0
    cells[-1] += value


class _Families(Collector):
    """A snapshot as Prometheus knows it."""

    def __init__(self, total: Snapshot) -> None:
        self._total = total

    def collect(self) -> Iterator[Metric]:
        for name, (text, labels) in COUNTERS.items():
            counter = CounterMetricFamily(name, text, labels=labels)
            for key, value in self._total.counters.items():
                if key[0] == name:
                    counter.add_metric(key[1:], value)
            yield counter
        for name, (text, labels, bounds) in HISTOGRAMS.items():
            histogram = HistogramMetricFamily(name, text, labels=labels)
            for key, cells in self._total.histograms.items():
                if key[0] == name:
                    histogram.add_metric(key[1:], _cumulated(cells, bounds), cells[-1])
            yield histogram
        for name, text in GAUGES.items():
            yield GaugeMetricFamily(name, text, value=self._total.gauges.get(name, 0.0))


def _cumulated(cells: list[float], bounds: tuple[float, ...]) -> list[tuple[str, float]]:
    rows, total = [], 0.0
    for bound, cell in zip((*map(str, bounds), "+Inf"), cells, strict=False):
        total += cell
        rows.append((bound, total))
    return rows


def _sum(snapshots: list[Snapshot]) -> Snapshot:
    total = Snapshot({}, {}, {})
    for one in snapshots:
        for key, value in one.counters.items():
            total.counters[key] = total.counters.get(key, 0.0) + value
        for key, cells in one.histograms.items():
            known = total.histograms.get(key, [0.0] * len(cells))
            total.histograms[key] = [a + b for a, b in zip(known, cells, strict=True)]
        for name, value in one.gauges.items():
            total.gauges[name] = total.gauges.get(name, 0.0) + value
    return total


_Listed = tuple[list[tuple[Key, float]], list[tuple[Key, list[float]]], dict[str, float]]
"""A snapshot for a file: MessagePack maps want plain keys."""


def _listed(one: Snapshot) -> _Listed:
    return list(one.counters.items()), list(one.histograms.items()), one.gauges


def _read(path: Path) -> Snapshot:
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        counters, histograms, gauges = msgspec.msgpack.decode(path.read_bytes(), type=_Listed)
        return Snapshot(dict(counters), dict(histograms), gauges)
    return Snapshot({}, {}, {})

"""Prometheus metrics under vLLM's names, so that one dashboard fits both servers."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from serving.local.engine import Engine

SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """One server's counters; `registry` is what /metrics prints."""

    def __init__(self, engine: Engine, model: str) -> None:
        self.registry = CollectorRegistry()
        self._model = model
        label = ("model_name",)
        self._prompt = Counter(
            "vllm:prompt_tokens", "Prompt tokens.", label, registry=self.registry
        )
        self._generated = Counter(
            "vllm:generation_tokens", "Generated tokens.", label, registry=self.registry
        )
        self._answers = Counter(
            "vllm:request_success",
            "Finished answers.",
            (*label, "finished_reason"),
            registry=self.registry,
        )
        self._first = Histogram(
            "vllm:time_to_first_token_seconds",
            "Of streams, arrival to first token.",
            label,
            buckets=SECONDS,
            registry=self.registry,
        )
        self._latency = Histogram(
            "vllm:e2e_request_latency_seconds",
            "Arrival to last token.",
            label,
            buckets=SECONDS,
            registry=self.registry,
        )
        self.registry.register(_Load(engine, model))

    def first_token(self, seconds: float) -> None:
        self._first.labels(self._model).observe(seconds)

    def answered(self, prompt_tokens: int, tokens: int, reasons: list[str], seconds: float) -> None:
        """One request that reached its end."""
        self._prompt.labels(self._model).inc(prompt_tokens)
        self._generated.labels(self._model).inc(tokens)
        self._latency.labels(self._model).observe(seconds)
        for reason in reasons:
            self._answers.labels(self._model, reason).inc()


class _Load(Collector):
    """Read when scraped."""

    def __init__(self, engine: Engine, model: str) -> None:
        self._engine = engine
        self._model = model

    def collect(self) -> Iterator[GaugeMetricFamily]:
        load = self._engine.load
        for name, help_text, value in (
            ("vllm:num_requests_running", "Answers in the batch.", load.running),
            ("vllm:num_requests_waiting", "Answers waiting for a row.", load.waiting),
        ):
            gauge = GaugeMetricFamily(name, help_text, labels=["model_name"])
            gauge.add_metric([self._model], value)
            yield gauge

"""OpenTelemetry: captured events as spans and GenAI events, behind the extra `otel`.

On when OTEL_EXPORTER_OTLP_ENDPOINT is set; all of OpenTelemetry's own variables apply. Content
(prompts, answers) is never exported. Exports happen in a thread of their own, in batches, and drop
what they cannot deliver: telemetry never slows or fails a request.
"""

import logging
import os
from typing import TYPE_CHECKING

from everlearn.events import Completion, Event, Feedback

if TYPE_CHECKING:
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk.trace import TracerProvider

log = logging.getLogger(__name__)

OPERATIONS = {
    "chat/completions": "chat",
    "completions": "text_completion",
    "embeddings": "embeddings",
    "responses": "chat",
}
Attributes = dict[str, str | int | float | bool]


class Telemetry:
    """Turns captured events into spans and events."""

    def __init__(self, traces: "TracerProvider", logs: "LoggerProvider") -> None:
        self._traces = traces
        self._logs = logs
        self._tracer = traces.get_tracer("everlearn")
        self._logger = logs.get_logger("everlearn")

    def event(self, event: Event, traceparent: bytes | None) -> None:
        """Export one captured event; `traceparent` is the caller's header."""
        if isinstance(event, Completion):
            self._completion(event, traceparent)
        else:
            self._feedback(event)

    def close(self) -> None:
        """Deliver what waits."""
        self._traces.shutdown()
        self._logs.shutdown()

    def _completion(self, event: Completion, traceparent: bytes | None) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        attributes = completion_attributes(event)
        parent = None
        if traceparent is not None:
            carrier = {"traceparent": traceparent.decode("latin-1")}
            parent = TraceContextTextMapPropagator().extract(carrier)
        name = f"{attributes['gen_ai.operation.name']} {event.model_requested or ''}".rstrip()
        start = int(event.received_at * 1e9)
        span = self._tracer.start_span(
            name, parent, SpanKind.SERVER, attributes=attributes, start_time=start
        )
        if event.status not in ("ok", "shadow"):
            span.set_status(Status(StatusCode.ERROR, event.error))
        span.end(start + int(event.latency_ms * 1e6))
        self._logger.emit(
            event_name="gen_ai.client.inference.operation.details", attributes=attributes
        )

    def _feedback(self, event: Feedback) -> None:
        self._logger.emit(
            event_name="gen_ai.evaluation.result", attributes=feedback_attributes(event)
        )


def completion_attributes(event: Completion) -> Attributes:
    """By the GenAI conventions; ours start with `everlearn.`."""
    found: dict[str, str | int | float | bool | None] = {
        "gen_ai.operation.name": OPERATIONS.get(event.endpoint, event.endpoint),
        "gen_ai.provider.name": event.upstream or "everlearn",
        "gen_ai.request.model": event.model_requested,
        "gen_ai.response.model": event.model_served,
        "gen_ai.response.id": event.completion_id,
        "gen_ai.conversation.id": event.conversation_id,
        "gen_ai.request.stream": event.stream,
        "gen_ai.response.time_to_first_chunk": (
            event.first_token_ms / 1000 if event.first_token_ms is not None else None
        ),
        "http.response.status_code": event.http_status,
        "error.type": None if event.status in ("ok", "shadow") else event.status,
        "everlearn.task": event.task,
        "everlearn.arm": event.arm,
        "everlearn.version": event.version,
        "everlearn.release": event.release,
    }
    return {name: value for name, value in found.items() if value is not None}


def feedback_attributes(event: Feedback) -> Attributes:
    """Of `gen_ai.evaluation.result`; free text stays here."""
    score = event.value_number
    if event.value_bool is not None:
        score = float(event.value_bool)
    found: dict[str, str | int | float | bool | None] = {
        "gen_ai.evaluation.name": event.name,
        "gen_ai.evaluation.score.value": score,
        "gen_ai.evaluation.score.label": event.value_text if event.kind == "label" else None,
        "gen_ai.response.id": event.completion_id,
        "gen_ai.conversation.id": event.conversation_id,
        "everlearn.feedback.kind": event.kind,
        "everlearn.feedback.author": event.author,
    }
    return {name: value for name, value in found.items() if value is not None}


def open_telemetry(service_name: str) -> Telemetry | None:
    """Exporters as the environment says; None if it says nothing or the extra is missing."""
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk._logs import LoggerProvider
        from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        log.warning("OTEL_EXPORTER_OTLP_ENDPOINT is set, but the extra `otel` is not installed")
        return None
    resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", service_name)})
    traces, logs = TracerProvider(resource=resource), LoggerProvider(resource=resource)
    traces.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    logs.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
    return Telemetry(traces, logs)

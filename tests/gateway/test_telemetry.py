"""OpenTelemetry: what arrives at a real OTLP endpoint, and that nothing is loaded without one."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from everlearn.telemetry import completion_attributes, feedback_attributes
from tests.builders import make_completion, make_feedback
from tests.gateway.backend import Call, answer, backend
from tests.gateway.door import door

TRACE = "0af7651916cd43dd8448eb211c80319c"


def test_attributes_follow_the_conventions_and_carry_no_content() -> None:
    found = completion_attributes(make_completion(stream=True, first_token_ms=250.0))
    assert found["gen_ai.operation.name"] == "chat"
    assert found["gen_ai.response.time_to_first_chunk"] == 0.25
    assert "how many orders" not in repr(found)
    said = feedback_attributes(make_feedback(comment="private", completion_id="c"))
    assert said["gen_ai.evaluation.name"] == "thumbs"
    assert said["gen_ai.evaluation.score.value"] == 1.0
    assert "private" not in repr(said)


def test_without_an_endpoint_nothing_is_loaded() -> None:
    code = (
        "import sys; from everlearn.telemetry import open_telemetry\n"
        "assert open_telemetry('x') is None\n"
        "print(*[name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.anyio
async def test_spans_and_events_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def takes(call: Call, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(b"", kind="application/x-protobuf"))

    async with backend(takes) as collector, backend() as upstream:
        address = f"http://127.0.0.1:{collector.port}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        monkeypatch.setenv("OTEL_BLRP_SCHEDULE_DELAY", "50")
        async with door(tmp_path, upstream.url) as gate:
            await gate.chat({"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"})
            sent = {"completion_id": "c", "value": True}
            await gate.client.post("/v1/feedback", json=sent)
            async with asyncio.timeout(10):
                while len(collector.calls) < 2:
                    await asyncio.sleep(0.05)
            await asyncio.sleep(0.3)
    spans, events = [], []
    for call in collector.calls:
        if call.path == "/v1/traces":
            request = ExportTraceServiceRequest.FromString(call.raw)
            spans += [s for r in request.resource_spans for o in r.scope_spans for s in o.spans]
        elif call.path == "/v1/logs":
            logs = ExportLogsServiceRequest.FromString(call.raw)
            events += [e for r in logs.resource_logs for o in r.scope_logs for e in o.log_records]
    [span] = spans
    assert span.name == "chat text2sql"
    assert span.trace_id.hex() == TRACE
    names = {event.event_name for event in events}
    assert names == {"gen_ai.client.inference.operation.details", "gen_ai.evaluation.result"}

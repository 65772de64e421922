"""Success is read off the answer: every shape in which servers report that there is none."""

import json
from typing import Any

import pytest

from everlearn.events import Status
from everlearn.verdict import Signs, envelope, note, verdict
from tests.collector.answers import delta, row, streamed, whole

ERROR = {"code": 502, "message": "provider disconnected"}
PART = delta(content="The total is")

WHOLE_FAILURES: dict[str, Any] = {
    "openai": {"error": ERROR},
    "a text": {"error": "model not loaded"},
    "anthropic": {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}},
    "vllm": {"object": "error", "message": "engine died", "type": "InternalServerError"},
    "fastapi": {"detail": "Not Found"},
    "fastapi, in parts": {"detail": [{"loc": ["body"], "msg": "field required"}]},
    "a code and a message": {"code": 500, "msg": "404 NOT_FOUND", "success": False},
    "choices null": {"choices": None, "base_resp": {"status_code": 1004}},
    "no choices": {"id": "x", "choices": []},
    "openrouter": {"choices": [{"message": {"content": ""}, "finish_reason": "error",
                                "error": ERROR}]},
    "finish reason alone": {"choices": [{"message": {"content": "a"}, "finish_reason": "error"}]},
    "another choice": {"choices": [{"message": {"content": "a"}, "finish_reason": "stop"},
                                   {"index": 1, "error": ERROR}]},
    "deepseek": {"choices": [{"message": {"content": "a"},
                              "finish_reason": "insufficient_system_resource"}]},
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE_FAILURES)
def test_a_failure_inside_a_whole_200(name: str) -> None:
    found = row(response=WHOLE_FAILURES[name])
    assert found["status"] == "upstream_error"
    assert found["error"]


@pytest.mark.parametrize("body", [b"", b"<html>oops</html>", b"[]", b'"ok"', b"null"])
def test_a_body_that_is_no_object_is_no_answer(body: bytes) -> None:
    assert row(response=body)["status"] == "upstream_error"


CHUNKS = delta(content="")["choices"]
STREAM_FAILURES: dict[str, Any] = {
    "openai": {"error": ERROR},
    "openrouter": {"id": "g", "error": ERROR, "choices": delta(finish="error")["choices"]},
    "no choices beside": {"id": "g", "choices": [], "error": ERROR},
    "vllm": {"object": "error", "message": "engine died", "code": 500},
    "responses": {"type": "error", "code": "server_error", "message": "boom"},
    "responses failed": {"type": "response.failed", "response": {"error": ERROR, "output": []}},
    "an event of that name": b"event: error\ndata: " + json.dumps(ERROR).encode(),
    "an event of text": b"event: error\ndata: upstream gone",
    "a field of that name (llama.cpp)": b'error: {"code":500,"message":"boom"}',
    "bare JSON (a proxy)": json.dumps({"error": ERROR}).encode(),
}


@pytest.mark.parametrize("name", STREAM_FAILURES)
@pytest.mark.parametrize("done", [True, False])
def test_a_failure_inside_a_stream(name: str, done: bool) -> None:
    found = streamed(PART, STREAM_FAILURES[name], done=done)
    assert (found["status"], found["response_text"]) == ("upstream_error", "The total is")
    assert found["error"]


def test_the_reason_of_a_failure_is_its_message() -> None:
    assert row(response={"error": ERROR})["error"] == "provider disconnected"
    assert streamed(PART, b"event: error\ndata: gone")["error"] == "gone"
    assert row(response={"error": ERROR}, error="seen by the gateway")["error"] == (
        "seen by the gateway"
    )


@pytest.mark.parametrize("nothing", [None, "", {}, [], False])
def test_an_error_that_is_empty_is_none(nothing: Any) -> None:
    choice = {"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}
    assert row(response={"error": nothing, "choices": [choice]})["status"] == "ok"


@pytest.mark.parametrize(
    ("finish", "status"),
    [
        ("stop", "ok"), ("tool_calls", "ok"), ("eos_token", "ok"), ("length", "incomplete"),
        ("MAX_TOKENS", "incomplete"), ("abort", "incomplete"), ("content_filter", "filtered"),
        ("SAFETY", "filtered"), ("network_error", "upstream_error"), (None, "ok"),
    ],
)  # fmt: skip
def test_a_finish_reason_decides(finish: str | None, status: Status) -> None:
    assert whole({"content": "a"}, finish=finish)["status"] == status
    assert streamed(delta(content="a"), delta(finish=finish))["status"] == status


def test_a_stream_that_ends_politely_in_the_middle_is_incomplete() -> None:
    assert streamed(PART, delta(content=" 4"), done=False)["status"] == "incomplete"
    assert streamed(PART)["status"] == "ok"
    assert streamed(PART, delta(finish="stop"), done=False)["status"] == "ok"
    text = {"choices": [{"index": 0, "text": "a", "finish_reason": None}]}
    assert streamed(text, done=False, endpoint="completions")["status"] == "incomplete"
    assert row(stream=True, response=b"")["status"] == "incomplete"


@pytest.mark.parametrize(
    "transport",
    ["upstream_error", "client_abort", "timeout", "rejected", "shadow", "passed", "imported"],
)
def test_what_the_transport_knows_better_stays(transport: Status) -> None:
    for finish in ("stop", "length", "error"):
        assert whole({"content": "a"}, finish=finish, status=transport)["status"] == transport


def test_a_shadow_says_why_its_answer_is_none() -> None:
    assert whole({"content": "a"}, status="shadow")["error"] is None
    assert whole({"content": "a"}, finish="length", status="shadow")["error"] == "incomplete"
    assert row(response={"error": ERROR}, status="shadow")["error"] == (
        "upstream_error: provider disconnected"
    )


def test_other_endpoints_have_no_choices() -> None:
    assert row(endpoint="embeddings", response={"data": []})["status"] == "ok"
    assert row(endpoint="embeddings", response={"error": ERROR})["status"] == "upstream_error"


def test_the_gateway_may_note_chunk_by_chunk() -> None:
    signs = Signs()
    for chunk in (b"not JSON", json.dumps(PART).encode(), json.dumps({"error": ERROR}).encode()):
        said = envelope(chunk)
        if said is not None:
            note(signs, said)
    assert (signs.answered, signs.error) == (True, "provider disconnected")
    assert verdict("ok", signs, "chat/completions") == "upstream_error"

"""Routes that are passed on: every byte as it came, nothing that is not in the table."""

import json
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from gateway.passed import TABLE, route_of
from tests.builders import sha256
from tests.gateway.backend import STREAM_HEAD, Call, answer, backend, chunk, event
from tests.gateway.door import door
from tests.gateway.raw import wire

pytestmark = pytest.mark.anyio

BINARY = bytes(range(256)) * 20


async def echo(call: Call, writer: Any) -> None:
    """Says what it was asked, in bytes that are no text."""
    head = f"{call.path} {call.headers.get('content-type')}\n".encode()
    writer.write(answer(head + call.raw + BINARY, 200, "application/octet-stream", x_own="1"))


ASK = [
    ("GET", "/v1/responses/resp_1?stream=false", None),
    ("DELETE", "/v1/responses/resp_1", None),
    ("POST", "/v1/responses/resp_1/cancel", None),
    ("POST", "/v1/moderations", b'{"input": "a"}'),
    ("POST", "/v1/audio/transcriptions", BINARY),
    ("POST", "/v1/audio/speech", b'{"model": "tts", "input": "a"}'),
    ("POST", "/v1/images/generations", b'{"prompt": "a"}'),
    ("GET", "/v1/files?purpose=fine-tune&limit=3", None),
    ("POST", "/v1/files", BINARY),
    ("GET", "/v1/files/file-abc/content", None),
    ("POST", "/v1/batches", b"{}"),
    ("POST", "/v1/rerank", b'{"query": "a"}'),
    ("POST", "/rerank", b'{"query": "a"}'),
    ("POST", "/tokenize", b'{"prompt": "a"}'),
    ("POST", "/score", b"not json"),
]


@pytest.mark.parametrize(("method", "path", "content"), ASK)
async def test_a_route_is_the_upstreams(
    tmp_path: Path, method: str, path: str, content: bytes | None
) -> None:
    headers = {"content-type": "multipart/form-data; boundary=x"} if content is BINARY else {}
    async with backend(echo) as upstream, door(tmp_path, upstream.url) as gate:
        through = await gate.client.request(method, path, content=content, headers=headers)
        base = upstream.url.removesuffix("/v1")
        async with httpx.AsyncClient(base_url=base) as client:
            direct = await client.request(method, path, content=content, headers=headers)
        assert (through.status_code, through.content) == (direct.status_code, direct.content)
        assert through.headers["x-own"] == "1"
        seen, sent = upstream.calls
        assert (seen.path, seen.raw) == (sent.path, sent.raw)
        [captured] = gate.completions()
    assert (captured.status, captured.http_status, captured.task) == ("passed", 200, None)
    assert captured.completion_id == through.headers["x-everlearn-id"]
    assert (captured.request, captured.response) == (content or b"", direct.content)


async def test_what_is_larger_than_the_limit_is_passed_and_not_kept(tmp_path: Path) -> None:
    capture = {"passed_max_bytes": 1000}
    async with backend(echo) as upstream, door(tmp_path, upstream.url, capture=capture) as gate:
        got = await gate.client.post("/v1/files", content=BINARY)
        assert got.content.endswith(BINARY * 2)
        [captured] = gate.completions()
        assert (captured.request, captured.response) == (b"", b"")


async def test_a_task_is_a_model_here_too(tmp_path: Path) -> None:
    async with backend(echo) as upstream, door(tmp_path, upstream.url) as gate:
        await gate.client.post("/tokenize", json={"model": "text2sql", "prompt": "a"})
        assert json.loads(upstream.calls[0].raw)["model"] == "base"
        [captured] = gate.completions()
        assert (captured.task, captured.status) == ("text2sql", "passed")


async def test_a_streamed_answer_is_streamed(tmp_path: Path) -> None:
    body = event({"type": "response.output_text.delta"}) + event({"type": "other"})

    async def streams(call: Call, writer: Any) -> None:
        writer.write(STREAM_HEAD + chunk(body) + b"0\r\n\r\n")

    async with backend(streams) as upstream, door(tmp_path, upstream.url) as gate:
        got = await gate.client.get("/v1/responses/resp_1?stream=true")
        assert (got.content, got.headers["content-type"][:17]) == (body, "text/event-stream")
        assert [one.status for one in gate.completions()] == ["passed"]


@pytest.mark.parametrize("status", [400, 404, 500])
async def test_an_error_is_the_upstreams(tmp_path: Path, status: int) -> None:
    async def fails(call: Call, writer: Any) -> None:
        writer.write(answer(b'{"error": {"message": "no"}}', status))

    async with backend(fails) as upstream, door(tmp_path, upstream.url) as gate:
        got = await gate.client.get("/v1/files/nothing")
        assert (got.status_code, got.json()["error"]["message"]) == (status, "no")
        [captured] = gate.completions()
        assert (captured.status, captured.http_status) == ("passed", status)


@pytest.mark.parametrize(("path", "calls"), [("/v1/files", 1), ("/v1/rerank", 3)])
async def test_what_creates_something_is_sent_once(tmp_path: Path, path: str, calls: int) -> None:
    async def cuts(call: Call, writer: Any) -> None:
        writer.transport.abort()

    async with backend(cuts) as upstream, door(tmp_path, upstream.url) as gate:
        got = await gate.client.post(path, content=b"{}")
        assert (got.status_code, len(upstream.calls)) == (502, calls)
        assert [one.status for one in gate.completions()] == ["upstream_error"]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/files/..", "/v1/files/.", "/v1/files/a%2fb", "/v1/files/%2e%2e",
        "/v1/files/a//content", "/v1/files/../load_lora_adapter", "/v1/load_lora_adapter",
        "/v1/files/a/../../metrics",
        "/v1/responses/a/cancel/b", "/v1/responses/a\\b", "/v1/files/" + "a" * 257, "//rerank",
        "/v1/files;/x", "/invocations", "/sleep", "/reset_prefix_cache", "/v1/models/../../metrics",
        "/v1/models/..%2f..%2fmetrics", "/v1/models/%2e%2e", "/v1/unload_lora_adapter/",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_no_path_leads_elsewhere(tmp_path: Path, method: str, path: str) -> None:
    async with (
        backend(echo) as upstream,
        door(tmp_path, upstream.url) as gate,
        wire(gate) as connection,
    ):
        await connection.send(
            f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n".encode()
        )
        status, _, _ = await connection.answer()
        assert status in (404, 405, 400)
        assert upstream.calls == []


async def test_a_model_of_the_upstream_may_have_slashes(tmp_path: Path) -> None:
    async with backend(echo) as upstream, door(tmp_path, upstream.url) as gate:
        await gate.client.get("/v1/models/meta-llama/Llama%203?x")
        assert upstream.calls[0].path == "/v1/models/meta-llama%2FLlama%203"


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (b'{"object": "list", "data": [{"id": "big"}]}', ["big"]),
        (b'[{"id": "big"}]', ["big"]),
        (b'{"data": [{"id": "big"}, null, {"id": 7}, "big", {}]}', ["big"]),
        (b'{"data": {"big": {}}}', []),
        (b"<html>busy</html>", []),
        (b"null", []),
        (b"[" * 100_000, []),
    ],
)
async def test_tasks_are_listed_whatever_the_upstream_lists(
    tmp_path: Path, body: bytes, names: list[str]
) -> None:
    async def lists(call: Call, writer: Any) -> None:
        writer.write(answer(body))

    async with backend(lists) as upstream, door(tmp_path, upstream.url) as gate:
        got = await gate.client.get("/v1/models")
        assert got.status_code == 200
        assert [row["id"] for row in got.json()["data"]] == ["text2sql", *names]


async def test_a_key_limited_to_tasks_reaches_none_of_them(tmp_path: Path) -> None:
    keys = [{"id": "a", "sha256": sha256("k"), "tasks": ["text2sql"]}]
    headers = {"authorization": "Bearer k"}
    async with backend(echo) as upstream, door(tmp_path, upstream.url, keys=keys) as gate:
        for method, path, content in ASK:
            got = await gate.client.request(method, path, content=content, headers=headers)
            assert (got.status_code, got.json()["error"]["code"]) == (403, "route_not_allowed")
        assert (await gate.client.get("/v1/files")).status_code == 401
        listed = (await gate.client.get("/v1/models", headers=headers)).json()["data"]
        assert [row["id"] for row in listed] == ["text2sql"]
        assert (await gate.client.get("/v1/models/m", headers=headers)).status_code == 404
        assert upstream.calls == []
        assert {one.status for one in gate.completions()} == {"rejected"}


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "text2sql", "model": "secret", "messages": []}',
        b'{"Model": "secret", "model": "text2sql", "messages": []}',
        b'{"MODEL": "secret", "model": "text2sql", "messages": []}',
        b'{"mod\\u0065l": "secret", "model": "text2sql", "messages": []}',
        b'{"\\u004dODEL": "secret", "model": "text2sql", "messages": []}',
    ],
)
async def test_a_limited_key_names_one_model(tmp_path: Path, body: bytes) -> None:
    keys = [{"id": "a", "sha256": sha256("k"), "tasks": ["text2sql"]}]
    headers = {"authorization": "Bearer k"}
    async with backend() as upstream, door(tmp_path, upstream.url, keys=keys) as gate:
        got = await gate.client.post("/v1/chat/completions", content=body, headers=headers)
        assert (got.status_code, got.json()["error"]["code"]) == (400, "ambiguous_model")
        assert upstream.calls == []
        nested = b'{"model": "text2sql", "metadata": {"Model": "x", "model": "y"}, "messages": []}'
        got = await gate.client.post("/v1/chat/completions", content=nested, headers=headers)
        assert got.status_code == 200


async def test_another_method_is_405_and_without_an_upstream_404(tmp_path: Path) -> None:
    async with backend(echo) as upstream, door(tmp_path, upstream.url) as gate:
        assert (await gate.client.put("/v1/files")).status_code == 405
        gate.service.__dict__["default_upstream"] = None
        got = await gate.client.get("/v1/files")
        assert (got.status_code, got.json()["error"]["code"]) == (404, "no_default_upstream")


def test_every_line_of_the_table_is_found_by_its_path_and_no_other() -> None:
    for route in TABLE:
        path = route.path.pattern.decode().replace("\\", "")
        assert route_of(path.encode()) is route or "{" in path
    assert route_of(b"/v1/files/abc/content") is not route_of(b"/v1/files/abc")
    assert route_of(b"/v1/chat/completions/x") is not None
    assert route_of(b"/v1/nothing") is None


async def test_docs_and_metrics_by_config(tmp_path: Path) -> None:
    async with backend() as upstream, door(tmp_path, upstream.url, metrics=False) as gate:
        for path in ("/docs", "/openapi.json", "/redoc", "/metrics"):
            assert (await gate.client.get(path)).status_code == 404
    async with backend() as upstream, door(tmp_path / "b", upstream.url, docs=True) as gate:
        for path in ("/docs", "/openapi.json", "/metrics"):
            assert (await gate.client.get(path)).status_code == 200


async def test_the_sdk_uses_them(tmp_path: Path) -> None:
    async def files(call: Call, writer: Any) -> None:
        content = {"id": "file-1", "object": "file", "bytes": len(call.raw), "created_at": 1,
                   "filename": "a.jsonl", "purpose": "batch", "status": "processed"}  # fmt: skip
        writer.write(answer(json.dumps(content).encode()))

    async with backend(files) as upstream, door(tmp_path, upstream.url) as gate:
        base = f"{gate.url}/v1"
        async with openai.AsyncOpenAI(base_url=base, api_key="k", max_retries=0) as client:
            made = await client.files.create(file=("a.jsonl", BINARY), purpose="batch")
            assert (made.id, BINARY in upstream.calls[0].raw) == ("file-1", True)
            assert (await client.files.retrieve("file-1")).filename == "a.jsonl"


@pytest.mark.parametrize(("length", "kept"), [(256, "as it is"), (257, "hash"), (5000, "hash")])
async def test_identifiers_are_bounded_and_still_join(
    tmp_path: Path, length: int, kept: str
) -> None:
    sent = "r" * length
    names = ("x-request-id", "x-everlearn-unit", "x-everlearn-conversation")
    async with backend() as upstream, door(tmp_path, upstream.url) as gate:
        for _ in range(2):
            got = await gate.chat(dict.fromkeys(names, sent))
            assert got.status_code == 200
        one, two = gate.completions()
    assert one.request_id is not None
    assert one.request_id == one.unit == one.conversation_id == two.unit
    assert (one.request_id == sent) == (kept == "as it is")
    assert len(one.request_id) <= 256
    assert got.headers["x-request-id"] == one.request_id

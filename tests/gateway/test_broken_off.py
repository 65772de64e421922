"""A stream that ends politely in the middle of an answer."""

import json
from pathlib import Path

import openai
import pytest

from tests.gateway.backend import STREAM_HEAD, answer, backend, chat_chunk, chunk, event
from tests.gateway.door import CHAT, door
from tests.gateway.test_upstream_faults import says

pytestmark = pytest.mark.anyio

USAGE = event({"id": "u", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}})
SAYS_SO = chat_chunk('about "finish_reason": "stop" he said nothing')


@pytest.mark.parametrize("kind", ["vllm", "openai"])
@pytest.mark.parametrize("rest", [b"", USAGE, SAYS_SO, chat_chunk("x")[:-1], chat_chunk("x")[:20]])
async def test_the_client_and_the_log_are_told(tmp_path: Path, kind: str, rest: bytes) -> None:
    pieces = (STREAM_HEAD, chunk(chat_chunk("SEL")), *([chunk(rest)] if rest else []), b"0\r\n\r\n")
    settings = {"kind": kind}
    async with (
        backend(says(*pieces)) as upstream,
        door(tmp_path, upstream.url, settings=settings) as gate,
    ):
        got = await gate.chat(stream=True)
        [captured] = gate.completions()
    assert got.content.startswith(chat_chunk("SEL") + rest)
    last = [line for line in got.text.split("\n") if line][-1]
    error = json.loads(last.removeprefix("data: "))["error"]
    assert (error["type"], error["code"]) == ("upstream_error", "incomplete")
    assert (captured.status, captured.response) == ("incomplete", chat_chunk("SEL") + rest)
    assert captured.error is not None


async def test_the_sdk_raises(tmp_path: Path) -> None:
    pieces = (STREAM_HEAD, chunk(chat_chunk("SEL")), b"0\r\n\r\n")
    async with backend(says(*pieces)) as upstream, door(tmp_path, upstream.url) as gate:
        base = f"{gate.url}/v1"
        async with openai.AsyncOpenAI(base_url=base, api_key="k", max_retries=0) as client:
            messages: list[openai.types.chat.ChatCompletionMessageParam] = [
                {"role": "user", "content": "a"}
            ]
            stream = await client.chat.completions.create(
                model="text2sql", messages=messages, stream=True
            )
            seen = [part.choices[0].delta.content async for part in _first(stream)]
            assert seen == ["SEL"]
            with pytest.raises(openai.APIError, match="ended early"):
                async for _ in stream:
                    pass


async def _first(stream: openai.AsyncStream[openai.types.chat.ChatCompletionChunk]):  # type: ignore[no-untyped-def]
    yield await anext(stream)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("chat/completions", chat_chunk("a") + chat_chunk(None, "stop")),
        ("chat/completions", chat_chunk("a") + b"data: [DONE]\n\n"),
        ("chat/completions", event({"error": {"message": "oom"}})),
        ("responses", b'event: response.created\ndata: {"type": "response.created"}\n\n'),
    ],
)
async def test_what_is_whole_or_says_its_error_itself_is_left_alone(
    tmp_path: Path, path: str, body: bytes
) -> None:
    pieces = (STREAM_HEAD, chunk(body), b"0\r\n\r\n")
    async with backend(says(*pieces)) as upstream, door(tmp_path, upstream.url) as gate:
        got = await gate.client.post(f"/v1/{path}", json={**CHAT, "stream": True})
        assert got.content == body


async def test_an_error_page_of_a_stream_is_no_broken_stream(tmp_path: Path) -> None:
    page = answer(b"data: nothing\n\n", 400, "text/event-stream")
    async with backend(says(page)) as upstream, door(tmp_path, upstream.url) as gate:
        got = await gate.chat(stream=True)
        assert (got.status_code, got.content) == (400, b"data: nothing\n\n")

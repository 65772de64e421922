"""Our model server behind the gateway: its token ids are captured and nobody sees it."""

import json
import re
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.gateway.door import door
from tests.serving.conftest import Server

pytestmark = pytest.mark.anyio

HELLO = [{"role": "user", "content": "größe 漢字 🙂?"}]
TOOL = {"type": "function", "function": {"name": "run", "parameters": {"type": "object"}}}
ASK: list[tuple[str, dict[str, Any]]] = [
    ("chat/completions", {"messages": HELLO}),
    ("chat/completions", {"messages": HELLO, "n": 2, "seed": 3}),
    ("chat/completions", {"messages": HELLO, "stop": ["e"]}),
    ("chat/completions", {"messages": HELLO, "max_tokens": 1}),
    ("chat/completions", {"messages": HELLO, "logprobs": True, "top_logprobs": 2}),
    ("chat/completions", {"messages": HELLO, "return_token_ids": True}),
    ("chat/completions", {"messages": []}),
    ("completions", {"prompt": "sum "}),
    ("completions", {"prompt": ["sum ", "日本"], "n": 2, "seed": 3}),
    ("completions", {"prompt": "sum ", "logprobs": 2}),
]
STREAMED: list[dict[str, Any]] = [
    {},
    {"stream": True},
    {"stream": True, "stream_options": {"include_usage": True}},
]
_OWN = re.compile(rb'"id":"[^"]+"|"created":\d+')
"""What differs from answer to answer."""


def same(body: bytes) -> bytes:
    return _OWN.sub(b"", body)


@pytest.mark.parametrize("logprobs", [False, True])
async def test_every_byte_is_as_it_would_have_been_and_the_ids_are_kept(
    tmp_path: Path, shared_server: Server, logprobs: bool
) -> None:
    capture = {"logprobs": logprobs}
    async with (
        door(tmp_path, shared_server.address, capture=capture) as gate,
        httpx.AsyncClient(base_url=shared_server.address, timeout=20) as direct,
    ):
        for path, fields in ASK:
            for streamed in STREAMED:
                body = {"model": "first", "temperature": 0, "max_tokens": 8, **fields, **streamed}
                straight = await direct.post(f"/{path}", json=body)
                through = await gate.client.post(f"/v1/{path}", json=body)
                assert through.status_code == straight.status_code
                assert same(through.content) == same(straight.content), body
                event = gate.completions()[-1]
                if event.status == "ok":
                    assert re.search(rb'"token_ids":\[\d', event.response)
                    assert re.search(rb'"prompt_token_ids":\[\d', event.response)
                    kept = re.search(rb'"logprobs":\{', event.response) is not None
                    assert kept == (logprobs or "logprobs" in fields)


async def test_the_sdk_sees_no_token_ids_and_the_log_has_what_was_sampled(
    tmp_path: Path, shared_server: Server
) -> None:
    messages: Any = HELLO
    async with door(tmp_path, shared_server.address) as gate:
        base = f"{gate.url}/v1"
        async with openai.AsyncOpenAI(base_url=base, api_key="k", max_retries=0) as client:
            chat = client.chat.completions
            got = await chat.create(model="first", messages=messages, max_tokens=6, temperature=0)
            assert got.model_dump()["choices"][0]["token_ids"] is None
            assert got.model_dump()["prompt_token_ids"] is None
            stream = await chat.create(
                model="first", messages=messages, max_tokens=6, temperature=0, stream=True
            )
            parts = [part async for part in stream]
        whole, streamed = gate.completions()
    text = "".join(part.choices[0].delta.content or "" for part in parts)
    assert text == got.choices[0].message.content
    ids = json.loads(whole.response)["choices"][0]["token_ids"]
    assert len(ids) == 6
    seen = re.findall(rb'[{,]"token_ids":\[([\d,]*)\]', streamed.response)
    assert [int(one) for piece in seen for one in piece.split(b",") if one] == ids

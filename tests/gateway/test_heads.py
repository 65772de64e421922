"""A head that is looked up gives what parsing it again would give, and only plain messages are."""

import asyncio
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.heads import split
from tests.gateway.backend import backend
from tests.gateway.door import CHAT, door
from tests.gateway.raw import post, wire

pytestmark = pytest.mark.anyio


def chat(text: str) -> bytes:
    return json.dumps({**CHAT, "messages": [{"role": "user", "content": text}]}).encode()


async def test_the_same_head_with_another_length_is_the_same_request(tmp_path: Path) -> None:
    async with backend() as upstream, door(tmp_path, upstream.url) as gate, wire(gate) as line:
        for number in range(1, 30):
            await line.send(post(chat("x" * number), "x-team: blue"))
            status, _, _ = await line.answer()
            assert status == 200
        assert [len(call.body["messages"][0]["content"]) for call in upstream.calls] == [
            *range(1, 30)
        ]
        assert {call.headers["x-team"] for call in upstream.calls} == {"blue"}
        sent = {
            tuple(sorted({**call.headers, "content-length": ""}.items())) for call in upstream.calls
        }
        assert len(sent) == 1
        assert len(gate.completions()) == 29


async def test_one_changed_byte_of_a_head_is_another_head(tmp_path: Path) -> None:
    async with backend() as upstream, door(tmp_path, upstream.url) as gate, wire(gate) as line:
        for unit in ("ann", "bob", "ann"):
            await line.send(post(chat("hi"), f"x-everlearn-unit: {unit}"))
            await line.answer()
        assert [event.unit for event in gate.completions()] == ["ann", "bob", "ann"]


@pytest.mark.parametrize(
    "bad",
    [
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n"
        b"content-length: 3\r\n\r\n{}x",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n"
        b"transfer-encoding: chunked\r\n\r\n{}",
    ],
)
async def test_smuggling_shapes_are_refused_however_often_they_come(
    tmp_path: Path, bad: bytes
) -> None:
    async with backend() as upstream, door(tmp_path, upstream.url) as gate:
        for _ in range(3):
            async with wire(gate) as line:
                await line.send(post(chat("hi")))
                assert (await line.answer())[0] == 200
                await line.send(bad)
                assert (await line.answer())[0] == 400
        assert len(upstream.calls) == 3


async def test_a_known_head_cut_anywhere_is_parsed(tmp_path: Path) -> None:
    async with backend() as upstream, door(tmp_path, upstream.url) as gate, wire(gate) as line:
        whole = post(chat("hi"))
        await line.send(whole)
        await line.answer()
        for cut in range(1, len(whole), 17):
            await line.send(whole[:cut])
            await asyncio.sleep(0.005)
            await line.send(whole[cut:])
            assert (await line.answer())[0] == 200
        await line.send(whole + whole)  # pipelined
        assert (await line.answer())[0] == (await line.answer())[0] == 200


NAMES = st.sampled_from(
    ["x-a", "X-Content-Length", "content-lengthy", "Content-Length", "content-length"]
)
VALUES = st.integers(0, 12).map(str) | st.text("ab 1:", max_size=6).map(str.strip)


@given(st.lists(st.tuples(NAMES, VALUES), max_size=5), st.binary(max_size=12))
def test_a_message_is_cut_into_its_head_and_a_body_of_the_length_it_names(
    headers: list[tuple[str, str]], body: bytes
) -> None:
    head = "\r\n".join(["POST / HTTP/1.1", *(": ".join(pair) for pair in headers)]).encode()
    data = head + b"\r\n\r\n" + body
    cut = split(data)
    if cut is None:
        return
    key, rest = cut
    assert rest == body
    missing = len(head) - len(key)
    assert any(
        key == head[:at] + head[at + missing :] and int(head[at : at + missing]) == len(body)
        for at in range(len(head))
        if head[at : at + missing].isdigit()
    )

"""What is asked beyond the client's wish never reaches the client, and nothing else is changed."""

import json
from pathlib import Path
from typing import Any

import pytest

from everlearn.config import Upstream
from gateway.dialect import Dialect, Undo, tokens_of
from gateway.http.body import read_body
from tests.gateway.backend import STREAM_HEAD, Call, answer, backend, chunk
from tests.gateway.door import Door, door

CHAT = "chat/completions"
VLLM = Dialect(Upstream(base_url="http://x/v1", kind="vllm"), logprobs=True)
TRICKY = 'he said "token_ids":[1,2] and \\"logprobs\\":{"a": {}} \n ]} "usage":null'


def ask(
    dialect: Dialect, raw: bytes, endpoint: str = CHAT, *, counted: bool = False
) -> tuple[bytes, Undo | None]:
    """What is sent for a client's body, and what is done to its answer."""
    return dialect.request(raw, read_body(raw), endpoint, counted=counted)


def undo_of(dialect: Dialect, **fields: Any) -> Undo:
    raw = json.dumps({"model": "m", "messages": [], **fields}).encode()
    undo = ask(dialect, raw)[1]
    assert undo is not None
    return undo


def logprob(token: str, ids: int = 2) -> dict[str, Any]:
    one = {"token": token, "logprob": -0.5, "bytes": list(token.encode())}
    return {**one, "top_logprobs": [one] * ids}


def vllm_answer(text: str, *, details: bool, spaces: bool) -> bytes:
    """As vLLM 0.32 writes it, with and without what was asked for."""
    body = {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [
            {
                "index": index, "message": {"role": "assistant", "content": text},
                "logprobs": {"content": [logprob(t) for t in text[:9]]} if details else None,
                "finish_reason": "stop", "stop_reason": None,
                "token_ids": [1, 22, 333] if details else None,
            }
            for index in range(2)
        ],
        "usage": {"prompt_tokens": 3, "total_tokens": 6, "completion_tokens": 3},
        "prompt_token_ids": list(range(40)) if details else None,
    }  # fmt: skip
    separators = (", ", ": ") if spaces else (",", ":")
    return json.dumps(body, separators=separators, ensure_ascii=False).encode()


@pytest.mark.parametrize("spaces", [False, True])
@pytest.mark.parametrize("text", ["SELECT 1", TRICKY, '}{"', "größe 漢字 🙂\\"])
def test_a_whole_answer_is_what_it_would_have_been(text: str, spaces: bool) -> None:
    got = undo_of(VLLM).whole(vllm_answer(text, details=True, spaces=spaces))
    assert got == vllm_answer(text, details=False, spaces=spaces)


def vllm_chunks(text: str, *, details: bool, choices: int = 1) -> list[bytes]:
    """vLLM's stream; tokens that show no text yet have an event only if their ids are asked."""
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    rows: list[dict[str, Any]] = []
    for index in range(choices):
        first = {"index": index, "delta": {"role": "assistant", "content": ""}}
        first |= {"logprobs": None, "finish_reason": None}
        ids = [5, 6, 7] if details else None
        rows.append({**head, "choices": [first], "prompt_token_ids": ids})
    for at, token in enumerate([*text, ""]):
        for index in range(choices):
            finish = None if token else "stop"
            delta = {"content": token} if token and token != "_" else {}
            if token == "_" and not details:
                continue
            choice = {
                "index": index, "delta": delta, "logprobs": None, "finish_reason": finish,
                **({"stop_reason": None} if finish else {}),
                "token_ids": [at, at + 1] if details else None,
            }  # fmt: skip
            rows.append({**head, "choices": [choice]})
    return [b"data: " + json.dumps(row, separators=(",", ":")).encode() + b"\n\n" for row in rows]


@pytest.mark.parametrize("choices", [1, 2])
def test_events_are_what_they_would_have_been_one_by_one_and_together(choices: int) -> None:
    text = 'SELECT _1 \\_ "token_ids":[2]'
    sent = vllm_chunks(text, details=True, choices=choices)
    expected = b"".join(vllm_chunks(text, details=False, choices=choices))
    for logprobs in (False, True):
        undo = Undo(ids=True, logprobs=logprobs, usage=False, empty=True)
        assert b"".join(map(undo.event, sent)) == expected
        assert undo.events(b"".join(sent)) == expected


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
@pytest.mark.anyio
async def test_a_stream_is_what_it_would_have_been_however_it_is_cut(
    tmp_path: Path, size: int
) -> None:
    text = "größe_ 🙂 " + TRICKY
    rest = b": keep-alive\n\ndata: [DONE]\n\n"

    async def vllm(call: Call, writer: Any) -> None:
        details = bool(call.body.get("return_token_ids"))
        body = b"".join(vllm_chunks(text, details=details)) + rest
        writer.write(STREAM_HEAD)
        for at in range(0, len(body), size):
            writer.write(chunk(body[at : at + size]))
            if size > 7:
                await writer.drain()
        writer.write(b"0\r\n\r\n")

    async with backend(vllm) as upstream, door(tmp_path, upstream.url) as gate:
        got = await gate.chat(stream=True)
        assert got.content == b"".join(vllm_chunks(text, details=False)) + rest
        [event] = gate.completions()
        assert event.response.startswith(b"".join(vllm_chunks(text, details=True)))
        asked = await gate.chat(stream=True, return_token_ids=True)
        assert asked.content == b"".join(vllm_chunks(text, details=True)) + rest


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ({"return_token_ids": True, "logprobs": True}, True),
        ({"return_token_ids": False, "top_logprobs": 3}, True),
        ({"return_token_ids": None, "logprobs": None}, True),
        ({"metadata": {"return_token_ids": 1, "logprobs": 1}}, False),
        ({}, False),
    ],
)
def test_a_client_that_decides_itself_is_left_alone(sent: dict[str, Any], kept: bool) -> None:
    raw = json.dumps({"model": "m", "stream": True, **sent}).encode()
    body, undo = ask(VLLM, raw)
    assert ((body, undo) == (raw, None)) is kept


@pytest.mark.parametrize("endpoint", ["embeddings", "responses"])
def test_other_routes_and_other_kinds_are_left_alone(endpoint: str) -> None:
    raw = b'{"model": "m"}'
    assert ask(VLLM, raw, endpoint, counted=True) == (raw, None)
    other = Dialect(Upstream(base_url="http://x/v1"), logprobs=True)
    assert ask(other, raw, counted=True) == (raw, None)
    off = Dialect(Upstream(base_url="http://x/v1", kind="vllm", token_ids=False))
    assert ask(off, b'{"model": "m", "stream": true}') == (b'{"model": "m", "stream": true}', None)


def test_fields_are_renamed_and_dropped_where_configured() -> None:
    settings = Upstream(
        base_url="http://x/v1", rename_fields={"max_tokens": "max_completion_tokens"},
        drop_fields=("logit_bias", "seed"),
    )  # fmt: skip
    raw = b'{"model": "m", "max_tokens": 5, "logit_bias": {}, "messages": [{"seed":  1e2}]}'
    body, undo = ask(Dialect(settings), raw)
    assert undo is None
    assert body == b'{"model":"m","max_completion_tokens":5,"messages":[{"seed":  1e2}]}'
    both = b'{"model": "m", "max_tokens": 5, "max_completion_tokens": 7}'
    body, _ = ask(Dialect(settings), both)
    assert body == b'{"model":"m","max_completion_tokens":7}'


def test_what_the_client_asked_for_stays_beside_what_it_did_not() -> None:
    sent = vllm_answer("a", details=True, spaces=False)
    alone = json.loads(undo_of(VLLM, return_token_ids=True).whole(sent))
    assert (alone["choices"][0]["token_ids"], alone["choices"][0]["logprobs"]) == (
        [1, 22, 333],
        None,
    )
    alone = json.loads(undo_of(VLLM, logprobs=True).whole(sent))
    assert alone["choices"][0]["token_ids"] is None
    assert len(alone["choices"][0]["logprobs"]["content"]) == 1
    event = vllm_chunks("_", details=True)[1]
    assert undo_of(VLLM, logprobs=True).event(event) != b""
    assert undo_of(VLLM).event(event) == b""


def test_tokens_are_counted_by_their_ids_else_guessed_from_the_text() -> None:
    stream = b"".join(vllm_chunks("abc", details=True))
    assert tokens_of(stream, b"") == 3 + 4 * 2
    plain = b"".join(vllm_chunks("abcdefgh", details=False))
    assert tokens_of(plain, b'{"messages": [{"content": "12345"}]}') == 2 + 2


USAGE = {"prompt_tokens": 40, "completion_tokens": 40, "total_tokens": 80}


def openai_chunks(usage: bool, unasked_null: bool = True) -> list[bytes]:
    """OpenAI's stream: with usage asked for, every event has the field."""
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    extra: dict[str, Any] = {"usage": None} if usage and unasked_null else {}
    rows: list[dict[str, Any]] = [
        {**head, "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}],
         **extra}
        for text in ("a ", 'b "usage":null, ', '"choices":[],"usage":{')
    ]  # fmt: skip
    rows.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], **extra})
    if usage:
        rows.append({**head, "choices": [], "usage": USAGE})
    return [b"data: " + json.dumps(row, separators=(",", ":")).encode() + b"\n\n" for row in rows]


async def asks(gate: Door, times: int, **fields: Any) -> list[Any]:
    return [await gate.chat({"authorization": "Bearer k"}, **fields) for _ in range(times)]


def limited() -> list[dict[str, Any]]:
    from tests.builders import sha256

    return [{"id": "a", "sha256": sha256("k"), "tokens_per_minute": 100}]


@pytest.mark.anyio
@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}, {"other": [1]}])
async def test_a_token_limit_holds_for_streams_and_the_client_sees_no_usage(
    tmp_path: Path, options: dict[str, Any] | None
) -> None:
    async def openai(call: Call, writer: Any) -> None:
        sent = call.body.get("stream_options") or {}
        writer.write(STREAM_HEAD)
        for piece in openai_chunks(sent.get("include_usage") is True):
            writer.write(chunk(piece))
            await writer.drain()
        writer.write(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    fields = {} if options is None else {"stream_options": options}
    async with (
        backend(openai) as upstream,
        door(tmp_path, upstream.url, settings={"kind": "openai"}, keys=limited()) as gate,
    ):
        got = await asks(gate, 4, stream=True, **fields)
        assert [one.status_code for one in got] == [200, 200, 429, 429]
        assert got[0].content == b"".join(openai_chunks(False)) + b"data: [DONE]\n\n"
        sent = upstream.calls[0].body["stream_options"]
        assert sent == {**(options or {}), "include_usage": True}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("kind", "stream"),
    [
        ("openai", b"".join(openai_chunks(False)) * 16),
        ("vllm", b"".join(vllm_chunks("ab" * 20, details=True))),
    ],
)
async def test_a_token_limit_holds_where_no_usage_is_given(
    tmp_path: Path, kind: str, stream: bytes
) -> None:
    async def says_none(call: Call, writer: Any) -> None:
        writer.write(STREAM_HEAD + chunk(stream) + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    async with (
        backend(says_none) as upstream,
        door(tmp_path, upstream.url, settings={"kind": kind}, keys=limited()) as gate,
    ):
        got = await asks(gate, 4, stream=True)
        assert 429 in [one.status_code for one in got]
        assert got[0].status_code == 200


@pytest.mark.anyio
async def test_a_token_limit_holds_for_responses(tmp_path: Path) -> None:
    usage = {"input_tokens": 40, "output_tokens": 40, "total_tokens": 80}

    async def responses(call: Call, writer: Any) -> None:
        body = {"id": "r", "object": "response", "output": [], "usage": usage}
        if not call.body.get("stream"):
            writer.write(answer(json.dumps(body).encode()))
            return
        last = json.dumps({"type": "response.completed", "response": body}).encode()
        writer.write(STREAM_HEAD + chunk(b"event: response.completed\ndata: " + last + b"\n\n"))
        writer.write(b"0\r\n\r\n")

    async with (
        backend(responses) as upstream,
        door(tmp_path, upstream.url, keys=limited()) as gate,
    ):
        codes = []
        for stream in (True, False, True):
            got = await gate.client.post(
                "/v1/responses", json={"model": "text2sql", "input": "a", "stream": stream},
                headers={"authorization": "Bearer k"},
            )  # fmt: skip
            codes.append(got.status_code)
        assert codes == [200, 200, 429]

"""Raw bodies of every endpoint, whole and streamed, into the lake's columns."""

import json
from typing import Any

import pytest

from collector.decode import COMPLETION_FIELDS, completion_row
from tests.builders import make_completion


def row(**fields: Any) -> dict[str, Any]:
    """The row of a completion with these request and response objects."""
    for name in ("request", "response"):
        if name in fields and not isinstance(fields[name], bytes):
            fields[name] = json.dumps(fields[name]).encode()
    values = completion_row(make_completion(**fields), "gw-a-w0", 3)
    return dict(zip(COMPLETION_FIELDS, values, strict=True))


def sse(*chunks: Any) -> bytes:
    lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return "".join(lines).encode() + b"data: [DONE]\n\n"


def delta(content: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": content} if content is not None else {}, **more}
    return {"id": "chatcmpl-9", "choices": [choice]}


def test_a_chat_answer() -> None:
    found = row()
    assert found["messages"] == '[{"role":"user","content":"how many orders?"}]'
    assert found["response_text"] == "SELECT count(*) FROM orders"
    assert (found["upstream_id"], found["finish_reason"]) == ("chatcmpl-1", "stop")
    assert (found["prompt_tokens"], found["completion_tokens"]) == (7, 9)


def test_token_ids_and_logprobs_as_vllm_gives_them() -> None:
    choice = {
        "index": 0,
        "message": {"content": "ab"},
        "token_ids": [5, 6],
        "logprobs": {"content": [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -1}]},
    }
    found = row(response={"prompt_token_ids": [1, 2], "choices": [choice]})
    assert found["prompt_token_ids"] == [1, 2]
    assert found["completion_token_ids"] == [5, 6]
    assert found["logprobs"] == [-0.5, -1.0]


def test_a_streamed_chat_with_usage_ids_and_logprobs() -> None:
    first = {**delta("SEL", token_ids=[5], logprobs={"content": [{"logprob": -0.1}]})}
    first["prompt_token_ids"] = [1, 2, 3]
    chunks = [
        delta(""),
        first,
        delta("ECT", token_ids=[6], logprobs={"content": [{"logprob": -0.2}]}),
        delta(finish_reason="stop"),
        {"id": "chatcmpl-9", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}},
    ]
    found = row(stream=True, response=sse(*chunks))
    assert (found["response_text"], found["finish_reason"]) == ("SELECT", "stop")
    assert (found["upstream_id"], found["completion_tokens"]) == ("chatcmpl-9", 2)
    assert (found["prompt_token_ids"], found["completion_token_ids"]) == ([1, 2, 3], [5, 6])
    assert found["logprobs"] == [-0.1, -0.2]


def test_a_stream_cut_in_the_middle_keeps_what_was_sent() -> None:
    body = sse(delta("SEL"), delta("ECT"))[:-30]
    assert row(stream=True, status="client_abort", response=body)["response_text"] == "SEL"


def test_a_stream_with_carriage_returns_comments_and_an_error_chunk() -> None:
    body = (
        b': ping\r\n\r\ndata: {"id":"a","choices":[{"index":0,"delta":{"content":"x"}}]}\r\n\r\n'
        b'data: {"error":{"message":"boom"}}\r\n\r\n'
    )
    assert row(stream=True, response=body)["response_text"] == "x"


def test_tool_calls_are_the_text_of_an_answer_without_any() -> None:
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "sql", "arguments": '{"q":1}'},
    }
    whole = row(response={"choices": [{"message": {"content": None, "tool_calls": [call]}}]})
    parts = [
        {"index": 0, "id": "call_1", "function": {"name": "sql", "arguments": '{"q"'}},
        {"index": 0, "function": {"arguments": ":1}"}},
    ]
    chunks = [{"choices": [{"index": 0, "delta": {"tool_calls": [part]}}]} for part in parts]
    streamed = row(stream=True, response=sse(*chunks))
    assert json.loads(whole["response_text"]) == [call]
    assert json.loads(streamed["response_text"]) == [call]


def test_content_in_parts_is_joined() -> None:
    content = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    found = row(response={"choices": [{"message": {"content": content}}]})
    assert found["response_text"] == "ab"


def test_only_the_first_of_several_choices_counts() -> None:
    choices = [
        {"index": 1, "message": {"content": "second"}},
        {"index": 0, "message": {"content": "first"}},
    ]
    assert row(response={"choices": choices})["response_text"] == "first"


def test_a_plain_completion() -> None:
    found = row(
        endpoint="completions",
        request={"model": "m", "prompt": "once", "max_tokens": 5},
        response={
            "id": "cmpl-1",
            "choices": [
                {
                    "index": 0,
                    "text": " upon",
                    "finish_reason": "length",
                    "prompt_token_ids": [1],
                    "logprobs": {"token_logprobs": [None, -0.3]},
                }
            ],
        },
    )
    assert json.loads(found["messages"]) == [{"role": "user", "content": "once"}]
    assert (found["response_text"], found["finish_reason"]) == (" upon", "length")
    assert (found["logprobs"], found["prompt_token_ids"]) == ([None, -0.3], [1])


def test_an_embedding() -> None:
    found = row(
        endpoint="embeddings",
        request={"input": ["a", "b"]},
        response={"data": [{"embedding": [0.1]}], "usage": {"prompt_tokens": 2}},
    )
    assert json.loads(found["messages"]) == [{"role": "user", "content": ["a", "b"]}]
    assert (found["response_text"], found["prompt_tokens"]) == (None, 2)


RESPONSE = {
    "id": "resp_1",
    "status": "completed",
    "output": [
        {"type": "reasoning", "summary": []},
        {"type": "message", "content": [{"type": "output_text", "text": "hello"}]},
    ],
    "usage": {"input_tokens": 4, "output_tokens": 1},
}


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_of_the_responses_api(stream: bool) -> None:
    body = json.dumps(RESPONSE).encode()
    if stream:
        body = sse(
            {"type": "response.output_text.delta", "delta": "hel"},
            {"type": "response.output_text.delta", "delta": "lo"},
            {"type": "response.completed", "response": RESPONSE},
        )
    request = {"instructions": "be kind", "input": "hi", "max_output_tokens": 9}
    found = row(endpoint="responses", stream=stream, request=request, response=body)
    assert json.loads(found["messages"]) == [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "hi"},
    ]
    assert (found["response_text"], found["upstream_id"]) == ("hello", "resp_1")
    assert (found["prompt_tokens"], found["completion_tokens"]) == (4, 1)


def test_sampling_keeps_what_was_asked_and_nothing_else() -> None:
    asked = {"temperature": 0.0, "seed": 7, "stop": ["\n"], "n": 2}
    found = row(request={"messages": [], "model": "m", "stream": True, **asked})
    assert json.loads(found["sampling"]) == asked


def test_a_sampling_value_of_a_wrong_type_costs_itself_alone() -> None:
    asked = {"messages": [{"role": "user", "content": "hi"}], "temperature": "hot", "seed": 7}
    found = row(request={**asked, "metadata": {"a": "b"}})
    assert found["sampling"] == '{"seed":7}'
    assert json.loads(found["messages"]) == asked["messages"]
    assert json.loads(found["metadata"]) == {"a": "b"}


def test_an_instruction_that_is_no_text_is_shown_as_one() -> None:
    odd = {"instructions": 5, "seed": 7, "metadata": {"a": "b"}}
    found = row(request={**odd, "input": "hi"})
    assert json.loads(found["messages"])[0] == {"role": "system", "content": "5"}
    assert (found["sampling"], found["metadata"]) == ('{"seed":7}', '{"a": "b"}')
    assert row(request={**odd, "messages": []})["messages"] == "[]"


def test_metadata_is_kept_as_sent() -> None:
    found = row(request={"messages": [], "metadata": {"team": "ops"}})
    assert json.loads(found["metadata"]) == {"team": "ops"}


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"<html>502</html>", b"[1,2]", b'"text"', b"\xff\xfe", b'{"choices": 5}', b"null"),
        *(b"[" * 100_000, b'{"id":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        b'data: {"id":' + b"[" * 100_000,
    ],
    ids=lambda body: body[:16].decode(errors="replace"),
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_body_that_says_nothing_is_kept_raw(body: bytes, stream: bool) -> None:
    found = row(request=body, response=body, stream=stream, status="upstream_error")
    assert (found["raw_request"], found["raw_response"]) == (body, body)
    assert (found["response_text"], found["messages"]) == (None, None)

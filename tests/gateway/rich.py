"""An upstream that uses everything the OpenAI API has: tools, several choices, logprobs, usage,
unicode cut in the middle, comments, embeddings, responses, errors."""

import asyncio
import base64
import json
import struct
from typing import Any

from tests.gateway.backend import STREAM_HEAD, Call, answer, chunk, event

TEXT = "SELECT „größe“ -- 漢字 🙂"
LOGPROBS = {
    "content": [{"token": "SEL", "logprob": -0.25, "bytes": [83, 69, 76], "top_logprobs": []}],
    "refusal": None,
}
TOOL = {
    "id": "call_1", "type": "function",
    "function": {"name": "run", "arguments": '{"sql": "SELECT 1"}'},
}  # fmt: skip


async def rich(call: Call, writer: asyncio.StreamWriter) -> None:
    """Answer by the path and the body."""
    path = call.path.removeprefix("/v1/").partition("?")[0]
    if path.startswith("models"):
        writer.write(answer(_json({"object": "list", "data": [_model("m"), _model("n")]})))
    elif path == "chat/completions" and call.body.get("messages") == []:
        error = {
            "message": "messages is empty", "type": "invalid_request_error",
            "param": "messages", "code": "empty",
        }  # fmt: skip
        writer.write(answer(_json({"error": error}), 400, x_upstream="yes"))
    elif call.body.get("stream"):
        writer.write(STREAM_HEAD)
        for piece in STREAMS[path](call.body):
            writer.write(chunk(piece))
            await writer.drain()
            await asyncio.sleep(0.002)
        writer.write(b"0\r\n\r\n")
    else:
        body = _json(ANSWERS[path](call.body))
        writer.write(answer(body, x_upstream="yes", openai_processing_ms="7"))


def _json(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode()


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 1, "owned_by": "upstream"}


def _chat(body: Any) -> Any:
    message = {"role": "assistant", "content": TEXT, "refusal": None, "tool_calls": [TOOL]}
    choices = [
        {"index": index, "finish_reason": "tool_calls", "message": message, "logprobs": LOGPROBS}
        for index in range(body.get("n") or 1)
    ]
    return {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m",
        "choices": choices, "system_fingerprint": "fp", "unknown_field": {"kept": [1, None]},
        "usage": {
            "prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8,
            "prompt_tokens_details": {"cached_tokens": 2},
        },
    }  # fmt: skip


def _chat_stream(body: Any) -> list[bytes]:
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": piece} for piece in TEXT.split(" ")]
    deltas.append({"tool_calls": [{"index": 0, **TOOL}]})
    deltas.append({"tool_calls": [{"index": 0, "function": {"arguments": " "}}]})
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    chunks = [
        {**base, "choices": [{"index": i, "delta": delta, "logprobs": LOGPROBS,
                              "finish_reason": None}]}
        for delta in deltas for i in range(body.get("n") or 1)
    ]  # fmt: skip
    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    usage = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
    chunks += [{**base, **last}, {**base, "choices": [], "usage": usage}]
    text = b": keep-alive\n\n" + b"".join(map(event, chunks)) + b"data: [DONE]\n\n"
    # Cut without regard for events, lines or characters.
    return [text[at : at + 37] for at in range(0, len(text), 37)]


def _completion(body: Any) -> Any:
    return {
        "id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "text": TEXT, "finish_reason": "length", "logprobs": None}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    }  # fmt: skip


def _completion_stream(body: Any) -> list[bytes]:
    rows = [
        {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m",
         "choices": [{"index": 0, "text": piece, "finish_reason": None, "logprobs": None}]}
        for piece in TEXT.split(" ")
    ]  # fmt: skip
    return [*map(event, rows), b"data: [DONE]\n\n"]


def _embeddings(body: Any) -> Any:
    vector = [0.25, -1.5, 3.0]
    packed = base64.b64encode(struct.pack("<3f", *vector)).decode()
    value = packed if body.get("encoding_format") == "base64" else vector
    inputs = body["input"] if isinstance(body["input"], list) else [body["input"]]
    rows = [
        {"object": "embedding", "index": index, "embedding": value} for index in range(len(inputs))
    ]
    usage = {"prompt_tokens": 2, "total_tokens": 2}
    return {"object": "list", "data": rows, "model": "m", "usage": usage}


def _response(body: Any, status: str = "completed") -> Any:
    content = {"type": "output_text", "text": TEXT, "annotations": [], "logprobs": []}
    message = {
        "type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
        "content": [content],
    }  # fmt: skip
    return {
        "id": "resp_1", "object": "response", "created_at": 1.0, "model": "m", "status": status,
        "output": [message] if status == "completed" else [], "parallel_tool_calls": True,
        "tool_choice": "auto", "tools": [], "error": None, "incomplete_details": None,
        "instructions": None, "metadata": {}, "temperature": 1.0, "top_p": 1.0,
        "usage": {
            "input_tokens": 3, "output_tokens": 5, "total_tokens": 8,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        },
    }  # fmt: skip


def _response_stream(body: Any) -> list[bytes]:
    base = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    rows: list[dict[str, Any]] = [
        {"type": "response.created", "response": _response(body, "in_progress")}
    ]
    rows += [
        {"type": "response.output_text.delta", "delta": piece, "logprobs": [], **base}
        for piece in TEXT.split(" ")
    ]
    rows.append({"type": "response.completed", "response": _response(body)})
    return [
        f"event: {row['type']}\n".encode() + event({**row, "sequence_number": number})
        for number, row in enumerate(rows)
    ]


ANSWERS = {
    "chat/completions": _chat,
    "completions": _completion,
    "embeddings": _embeddings,
    "responses": _response,
}
STREAMS = {
    "chat/completions": _chat_stream,
    "completions": _completion_stream,
    "responses": _response_stream,
}

"""Bodies as servers send them, and the lake's row that becomes of one."""

import json
from typing import Any

from collector.decode import COMPLETION_FIELDS, completion_row
from tests.builders import make_completion


def row(**fields: Any) -> dict[str, Any]:
    """The row of a completion with these request and response objects."""
    for name in ("request", "response"):
        if name in fields and not isinstance(fields[name], bytes):
            fields[name] = json.dumps(fields[name]).encode()
    values = completion_row(make_completion(**fields), "gw-a-w0", 3)
    return dict(zip(COMPLETION_FIELDS, values, strict=True))


def sse(*chunks: Any, done: bool = True) -> bytes:
    """Server-sent events; a bytes chunk is one event as it stands."""
    lines = [
        chunk if isinstance(chunk, bytes) else b"data: " + json.dumps(chunk).encode()
        for chunk in chunks
    ]
    return b"".join(line + b"\n\n" for line in lines) + (b"data: [DONE]\n\n" if done else b"")


def delta(index: int = 0, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    """One chunk of a chat stream."""
    choice = {"index": index, "delta": fields, "finish_reason": finish}
    return {"id": "chatcmpl-9", "object": "chat.completion.chunk", "choices": [choice]}


def call(arguments: Any = "", **fields: Any) -> dict[str, Any]:
    """A chunk with one piece of a tool call."""
    function = {"arguments": arguments}
    if "name" in fields:
        function["name"] = fields.pop("name")
    return delta(tool_calls=[{"index": 0, "function": function, **fields}])


def streamed(*chunks: Any, done: bool = True, **fields: Any) -> dict[str, Any]:
    """The row of a stream."""
    return row(stream=True, response=sse(*chunks, done=done), **fields)


def whole(message: Any, finish: str | None = "stop", **fields: Any) -> dict[str, Any]:
    """The row of a whole chat answer."""
    choice = {"index": 0, "message": message, "finish_reason": finish}
    usage = {"prompt_tokens": 5, "completion_tokens": 3}
    return row(response={"id": "up-1", "choices": [choice], "usage": usage}, **fields)


def message(found: dict[str, Any]) -> Any:
    """The canonical message."""
    return json.loads(found["answer"])


def calls(found: dict[str, Any]) -> list[tuple[Any, Any, Any]]:
    """Id, name and parsed arguments of each call."""
    return [
        (each.get("id"), each["function"]["name"], each["function"].get("parsed"))
        for each in message(found)["tool_calls"]
    ]

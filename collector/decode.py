"""Events to rows: parses what the gateway stored raw. What cannot be parsed stays null beside the
raw bytes; only an event that cannot be read at all is a dead letter.

A row is the event's own fields, then what was read from the bodies: most columns are copied at once
and no line of Python runs for them.
"""

from typing import Any

import msgspec
from msgspec.structs import astuple

from collector.answer import Answer, read_answer
from collector.openai_json import (
    NOTHING,
    UNREADABLE,
    Prompt,
    decode_json,
    decode_prompt,
    decode_request,
    encode,
)
from everlearn.events import Completion, Feedback

Row = tuple[Any, ...]

_RAW = {"request": "raw_request", "response": "raw_response"}

COMPLETION_FIELDS = (
    *(_RAW.get(name, name) for name in Completion.__struct_fields__),
    *Answer.__struct_fields__,
    *("gateway_id", "seq", "received_at", "messages", "metadata", "sampling"),
    *("tools", "tool_choice", "response_format", "forced"),
)
"""What the values of a `completion_row` are; of a name that stands twice the second one counts."""

FEEDBACK_FIELDS = (
    *Feedback.__struct_fields__,
    *("gateway_id", "seq", "received_at", "occurred_at", "tags"),
)
"""What the values of a `feedback_row` are; of a name that stands twice the second one counts."""


def completion_row(event: Completion, gateway_id: str, seq: int) -> Row:
    """The `completions` row of one event: values of `COMPLETION_FIELDS`."""
    request = _read_request(event.request)
    answer = read_answer(event.response, event.stream)
    identity = (gateway_id, seq, int(event.received_at * 1e6))
    return astuple(event) + astuple(answer) + identity + request + (None, None, None, None)


def feedback_row(event: Feedback, gateway_id: str, seq: int) -> Row:
    """The `feedback` row of one event: values of `FEEDBACK_FIELDS`."""
    return (
        *astuple(event),
        gateway_id,
        seq,
        int(event.received_at * 1e6),
        None if event.occurred_at is None else int(event.occurred_at * 1e6),
        None if event.tags is None else encode(event.tags).decode(),
    )


def _read_request(body: bytes) -> tuple[str | None, str | None, str | None]:
    """Messages, metadata and sampling, each null where it cannot be read."""
    try:
        request = decode_request(body)
    except UNREADABLE:
        try:
            prompt = decode_prompt(body)
        except UNREADABLE:
            return None, None, None
        return _messages(prompt), _text(prompt.metadata), None
    messages, metadata = _messages(request), _text(request.metadata)
    # Without the prompt, what is left to encode is the sampling: no second look at a long body.
    request.messages = request.prompt = request.input = NOTHING
    request.instructions = request.metadata = NOTHING
    return messages, metadata, encode(request).decode()


def _text(raw: msgspec.Raw) -> str | None:
    if raw is NOTHING:
        return None
    text = str(raw, "utf-8", "replace")
    return None if text == "null" else text


def _messages(request: Prompt) -> str | None:
    """The messages as the client sent them; a plain prompt as one user message."""
    messages = _text(request.messages)
    if messages is not None:
        return messages
    try:
        prompt, instructions = _value(request.prompt), _value(request.instructions)
        prompt = _value(request.input) if prompt is None else prompt
    except UNREADABLE:
        return None
    if prompt is None or not isinstance(instructions, str | None):
        return None
    rows: list[Any] = [] if instructions is None else [{"role": "system", "content": instructions}]
    if isinstance(prompt, list) and all(isinstance(item, dict) for item in prompt):
        rows += prompt
    else:
        rows.append({"role": "user", "content": prompt})
    return encode(rows).decode()


def _value(raw: msgspec.Raw) -> Any:
    return None if raw is NOTHING else decode_json(raw)

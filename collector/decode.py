"""Events to rows: parses what the gateway stored raw. What cannot be parsed stays null beside the
raw bytes; only an event that cannot be read at all is a dead letter.

Rows are tuples in the order of `columns.py`, so that a batch turns into Arrow columns at once.
"""

from typing import Any

import msgspec

from collector.answer import read_answer
from collector.openai_json import Request, decode_request, decode_sampling, encode
from everlearn.events import Completion, Feedback

Row = tuple[Any, ...]

_NO_REQUEST = Request()


def completion_row(event: Completion, gateway_id: str, seq: int) -> Row:
    """The `completions` row of one event."""
    request, sampling = _read_request(event.request)
    answer = read_answer(event.response, event.stream)
    return (
        event.completion_id,
        answer.upstream_id,
        event.request_id,
        gateway_id,
        seq,
        event.task,
        event.version,
        event.arm,
        event.probability,
        event.release,
        event.stage,
        event.unit,
        event.conversation_id,
        event.key_id,
        event.upstream,
        event.endpoint,
        int(event.received_at * 1e6),
        event.first_token_ms,
        event.latency_ms,
        event.status,
        event.http_status,
        event.stream,
        event.model_requested,
        event.model_served,
        _messages(request),
        answer.text,
        answer.finish_reason,
        answer.prompt_tokens,
        answer.completion_tokens,
        answer.prompt_token_ids,
        answer.token_ids,
        answer.logprobs,
        sampling,
        event.template_hash,
        event.adapter_digest,
        event.trainable,
        _text(request.metadata),
        event.error,
        event.fallback_from,
        event.request,
        event.response,
    )


def feedback_row(event: Feedback, gateway_id: str, seq: int) -> Row:
    """The `feedback` row of one event."""
    return (
        event.feedback_id,
        event.completion_id,
        event.request_id,
        event.conversation_id,
        event.other_completion_id,
        event.kind,
        event.name,
        event.value_bool,
        event.value_number,
        event.value_text,
        event.comment,
        event.author,
        event.author_id,
        event.weight,
        None if event.occurred_at is None else int(event.occurred_at * 1e6),
        int(event.received_at * 1e6),
        event.idempotency_key,
        None if event.tags is None else encode(event.tags).decode(),
        gateway_id,
        seq,
    )


def _read_request(body: bytes) -> tuple[Request, str | None]:
    try:
        sampling = encode(decode_sampling(body)).decode()
    except (msgspec.DecodeError, UnicodeDecodeError):
        sampling = None
    try:
        return decode_request(body), sampling
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _NO_REQUEST, sampling


def _text(raw: msgspec.Raw) -> str | None:
    text = bytes(raw).decode(errors="replace")
    return None if text in ("", "null") else text


def _messages(request: Request) -> str | None:
    """The messages as the client sent them; a plain prompt as one user message."""
    messages = _text(request.messages)
    if messages is not None:
        return messages
    prompt = request.input if request.prompt is None else request.prompt
    if prompt is None:
        return None
    rows: list[Any] = [{"role": "system", "content": request.instructions}]
    if isinstance(prompt, list) and all(isinstance(item, dict) for item in prompt):
        rows += prompt
    else:
        rows.append({"role": "user", "content": prompt})
    return encode(rows if request.instructions is not None else rows[1:]).decode()

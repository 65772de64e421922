"""What an upstream answered, read from the raw body: one JSON object or server-sent events.

A body that is neither (an HTML error page, a cut stream) gives what could be read; nothing raises.
"""

from dataclasses import dataclass, field
from typing import Any

import msgspec

from collector.openai_json import (
    UNREADABLE,
    Choice,
    Logprobs,
    Message,
    Output,
    Response,
    ToolCall,
    Usage,
    decode_response,
    encode,
)


class Answer(msgspec.Struct, gc=False):
    """The first choice and the usage: columns of `completions`, null where nothing is said."""

    upstream_id: str | None = None
    answer: str | None = None
    response_text: str | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_token_ids: list[int] | None = None
    completion_token_ids: list[int] | None = None
    logprobs: list[float | None] | None = None


def read_answer(body: bytes, stream: bool) -> Answer:
    """The answer in `body`."""
    if stream and body.lstrip()[:1] != b"{":
        return _read_stream(body)
    try:
        return _whole(decode_response(body))
    except UNREADABLE:
        return Answer()


def _whole(response: Response) -> Answer:
    answer = Answer(response.id, prompt_token_ids=response.prompt_token_ids)
    _count(answer, response.usage)
    for choice in response.choices:
        if choice.index == 0:
            _take(answer, choice)
            message = choice.message
            answer.response_text = choice.text if message is None else _message_text(message)
            break
    if response.output:
        answer.response_text = _output_text(response.output)
        answer.finish_reason = response.status
    return answer


def _take(answer: Answer, choice: Choice) -> None:
    answer.finish_reason = choice.finish_reason or answer.finish_reason
    answer.prompt_token_ids = choice.prompt_token_ids or answer.prompt_token_ids
    if choice.token_ids is not None:
        answer.completion_token_ids = (answer.completion_token_ids or []) + choice.token_ids
    if choice.logprobs is not None:
        answer.logprobs = (answer.logprobs or []) + _values(choice.logprobs)


def _values(logprobs: Logprobs) -> list[float | None]:
    if logprobs.content is not None:
        return [token.logprob for token in logprobs.content]
    return logprobs.token_logprobs or []


def _count(answer: Answer, usage: Usage | None) -> None:
    if usage is None:
        return
    answer.prompt_tokens = usage.prompt_tokens if usage.input_tokens is None else usage.input_tokens
    answer.completion_tokens = (
        usage.completion_tokens if usage.output_tokens is None else usage.output_tokens
    )


def _message_text(message: Message) -> str | None:
    """The content; without any, the tool calls as JSON, or the refusal."""
    text = content_text(message.content)
    if text or not message.tool_calls:
        return text if text is not None else message.refusal
    return _tools_text(message.tool_calls)


def content_text(content: Any) -> str | None:
    """Content as text: a string, or the text parts of a list."""
    if content is None or isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return encode(content).decode()


def _tools_text(calls: list[ToolCall]) -> str:
    rows = [
        {
            "id": call.id,
            "type": call.type or "function",
            "function": {
                "name": call.function.name if call.function else None,
                "arguments": call.function.arguments if call.function else None,
            },
        }
        for call in calls
    ]
    return encode(rows).decode()


def _output_text(output: list[Output]) -> str:
    texts = [part.text or "" for item in output for part in item.content or ()]
    calls = [
        ToolCall(id=item.call_id, function=None) for item in output if item.type == "function_call"
    ]
    if not any(texts) and calls:
        rows = [
            {"id": item.call_id, "name": item.name, "arguments": item.arguments}
            for item in output
            if item.type == "function_call"
        ]
        return encode(rows).decode()
    return "".join(texts)


@dataclass(slots=True)
class _Parts:
    texts: list[str] = field(default_factory=list)
    tools: dict[int, ToolCall] = field(default_factory=dict)


def _read_stream(body: bytes) -> Answer:
    answer, parts = Answer(), _Parts()
    for line in body.splitlines():
        if not line.startswith(b"data:") or line[5:].strip() == b"[DONE]":
            continue
        try:
            chunk = decode_response(line[5:])
        except UNREADABLE:
            continue
        if chunk.type is not None:
            _responses_event(answer, parts, chunk)
        else:
            _chunk(answer, parts, chunk)
    if parts.texts:
        answer.response_text = "".join(parts.texts)
    elif parts.tools:
        answer.response_text = _tools_text([parts.tools[index] for index in sorted(parts.tools)])
    return answer


def _chunk(answer: Answer, parts: _Parts, chunk: Response) -> None:
    answer.upstream_id = answer.upstream_id or chunk.id
    answer.prompt_token_ids = chunk.prompt_token_ids or answer.prompt_token_ids
    _count(answer, chunk.usage)
    for choice in chunk.choices:
        if choice.index != 0:
            continue
        _take(answer, choice)
        if choice.text:
            parts.texts.append(choice.text)
        if choice.delta is not None:
            text = content_text(choice.delta.content)
            if text:
                parts.texts.append(text)
            for call in choice.delta.tool_calls or ():
                _add_tool(parts.tools, call)


def _add_tool(tools: dict[int, ToolCall], part: ToolCall) -> None:
    call = tools.setdefault(part.index, part)
    if call is part:
        return
    call.id = call.id or part.id
    if part.function is not None and call.function is not None:
        call.function.name = call.function.name or part.function.name
        call.function.arguments = (call.function.arguments or "") + (part.function.arguments or "")


def _responses_event(answer: Answer, parts: _Parts, event: Response) -> None:
    if event.type == "response.output_text.delta" and isinstance(event.delta, str):
        parts.texts.append(event.delta)
    if event.response is not None:
        whole = _whole(event.response)
        answer.upstream_id = whole.upstream_id or answer.upstream_id
        _count(answer, event.response.usage)
        if whole.response_text is not None:
            answer.response_text, answer.finish_reason = whole.response_text, whole.finish_reason
            parts.texts = [whole.response_text]

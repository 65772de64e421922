"""What a request asked: the prompt as messages, what the model might use, and what was forced.

Messages of the chat API stay as the client sent them. A plain prompt is one user message; the items
of the Responses API become the messages that say the same.
"""

import re
from functools import lru_cache
from typing import Any

from msgspec import UNSET, Raw, Struct

from collector.message import arguments_text, plain
from collector.openai_json import NOTHING, Request, decode_request, read_request
from everlearn.tolerant import UNREADABLE, encode, loads, text, whole


class Asked(Struct, gc=False):
    """Columns of `completions`, null where nothing is said."""

    messages: str | None = None
    metadata: str | None = None
    sampling: str | None = None
    tools: str | None = None
    tool_choice: str | None = None
    response_format: str | None = None
    forced: str | None = None


_NOT_FORCING = {"enable_thinking", "thinking", "reasoning_effort"}
"""Keys of `chat_template_kwargs` that choose how the model works, not what it says."""
_FORCING = (
    "chat_template", "continue_final_message", "echo", "logit_bias", "structured_outputs",
    "guided_json", "guided_regex", "guided_choice", "guided_grammar", "grammar", "json_schema",
    "regex", "ebnf", "bad_words", "allowed_token_ids", "ignore_eos", "min_tokens",
    "logits_processors", "custom_logit_processor",
)  # fmt: skip
_ALSO = ("chat_template_kwargs", "add_generation_prompt", "nvext")
_MAY_FORCE = re.compile("|".join(f'"{name}":' for name in (*_FORCING, *_ALSO)))
MAX_KNOWN_BYTES = 8 * 2**10
"""What is longer is worked out every time, so that the memory stays bounded (16 MB at most)."""
_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def read_asked(body: bytes) -> Asked:
    """What the body asks; what cannot be read is null."""
    try:
        request = read_request(body)
    except UNREADABLE:
        return Asked()
    try:
        messages = _messages(request)
    except UNREADABLE:
        messages = None
    metadata = _text(request.metadata)
    # Without the prompt, what is left to encode says how to answer: no second look at a long body.
    request.messages = request.prompt = request.input = request.instructions = NOTHING
    request.suffix = NOTHING
    request.metadata, request.previous_response_id, request.conversation = NOTHING, UNSET, UNSET
    said = encode(request)
    manner = _known_manner(said) if len(said) <= MAX_KNOWN_BYTES else _manner(request)
    forced = "messages" if messages is not None and _is_prefilled(messages) else manner.forced
    return Asked(
        messages, metadata, manner.sampling, manner.tools, manner.tool_choice,
        manner.response_format, forced,
    )  # fmt: skip


class _Manner(Struct, gc=False):
    """How a request wants its answer, as columns."""

    sampling: str
    tools: str | None
    tool_choice: str | None
    response_format: str | None
    forced: str | None


@lru_cache(maxsize=1024)
def _known_manner(said: bytes) -> _Manner:
    """An application asks for all its answers in a few manners: each is worked out once."""
    return _manner(decode_request(said))


def _manner(request: Request) -> _Manner:
    """Of a request without its prompt."""
    tools = choice = shape = None
    if request.tools is not NOTHING:
        tools, request.tools = _text(request.tools), NOTHING
    if request.functions is not NOTHING:
        tools, request.functions = tools or _text(request.functions), NOTHING
    if request.tool_choice is not NOTHING:
        choice, request.tool_choice = _text(request.tool_choice), NOTHING
    if request.function_call is not NOTHING:
        choice, request.function_call = choice or _text(request.function_call), NOTHING
    if request.response_format is not NOTHING:
        shape, request.response_format = _text(request.response_format), NOTHING
    if request.text is not NOTHING:
        shape, request.text = shape or _text_format(request.text), NOTHING
    sampling = encode(request).decode()
    return _Manner(sampling, tools, choice, shape, _forced_by(request, sampling))


def _forced_by(request: Request, sampling: str) -> str | None:
    """The field that put words into the model's mouth: template, guided output, bias.

    `response_format` and `tool_choice` are not among them: a task may always ask in one form.
    """
    if not _MAY_FORCE.search(sampling):
        return None
    for name in _FORCING:
        if getattr(request, name) not in (UNSET, None, False, "", 0, {}, []):
            return name
    if request.add_generation_prompt is False:
        return "add_generation_prompt"
    if isinstance(request.nvext, dict) and any(name[:7] == "guided_" for name in request.nvext):
        return "nvext"
    more = request.chat_template_kwargs
    if isinstance(more, dict) and not set(more) <= _NOT_FORCING:
        return "chat_template_kwargs"
    return None


def _is_prefilled(messages: str) -> bool:
    """Whether the last message is the assistant's own beginning, to be gone on with."""
    if '"assistant"' not in messages:
        return False
    at = messages.rfind('"role"')
    if '"assistant"' not in messages[at : at + 24]:
        return False
    try:
        found = loads(messages)
    except UNREADABLE:
        return False
    last = found[-1] if isinstance(found, list) and found else None
    # After a call that has no result yet there is nothing to go on with.
    return isinstance(last, dict) and last.get("role") == "assistant" and "tool_calls" not in last


def _text(raw: Raw) -> str | None:
    """The JSON text as sent; halves of characters, which no other reader takes, made whole."""
    if raw is NOTHING:
        return None
    found = bytes(raw).decode("utf-8", "replace")
    # One character is looked for ten times faster than two.
    if "\\" in found and _HALF.search(found):
        try:
            found = text(whole(loads(found)))
        except UNREADABLE:
            return None
    return None if found == "null" else found


def _text_format(raw: Raw) -> str | None:
    try:
        found = loads(bytes(raw))
    except UNREADABLE:
        return None
    shape = found.get("format") if isinstance(found, dict) else None
    return None if shape is None else text(shape)


def _messages(request: Request) -> str | None:
    """The prompt as messages: the chat's own, or made of a plain prompt or of items."""
    messages = _text(request.messages)
    if messages is not None:
        return messages
    prompt, instructions = _value(request.prompt), _value(request.instructions)
    prompt = _value(request.input) if prompt is None else prompt
    if prompt is None:
        return None
    rows: list[Any] = []
    for kind in ("previous_response_id", "conversation"):
        before = getattr(request, kind)
        if before not in (UNSET, None):
            # Not here, and yet the model saw it: another history is another prompt.
            rows.append({"role": "reference", "content": [{"type": kind, "id": before}]})
    if instructions is not None:
        rows.append({"role": "system", "content": plain(instructions)})
    if isinstance(prompt, list) and prompt and all(isinstance(item, dict) for item in prompt):
        for item in prompt:
            _add_item(rows, item)
    else:
        rows.append({"role": "user", "content": prompt})
    if (suffix := _value(request.suffix)) not in (None, ""):
        rows.append({"role": "reference", "content": [{"type": "suffix", "suffix": suffix}]})
    return text(whole(rows))


def _value(raw: Raw) -> Any:
    return None if raw is NOTHING else loads(bytes(raw))


def _add_item(rows: list[Any], item: dict[str, Any]) -> None:
    """One input item of the Responses API as a message, or as a part of the one before."""
    kind = item.get("type")
    if kind in ("function_call", "custom_tool_call"):
        given = item.get("arguments") if kind == "function_call" else item.get("input")
        called = {"name": item.get("name"), "arguments": arguments_text(given)}
        call = {"id": item.get("call_id"), "type": "function", "function": called}
        _own(rows).setdefault("tool_calls", []).append(call)
    elif kind in ("function_call_output", "custom_tool_call_output"):
        output = _content(item.get("output"))
        rows.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": output})
    elif kind == "reasoning":
        thought = plain(item.get("summary")) or plain(item.get("content"))
        rows.append({"role": "assistant", "content": None, "reasoning": thought or ""})
    elif "role" in item and kind in (None, "message"):
        content = _content(item.get("content"))
        if item["role"] == "assistant" and _is_open(rows):
            rows[-1]["content"] = content
        else:
            rows.append({"role": item["role"], "content": content})
    else:
        rows.append({"role": "reference", "content": [item]})


def _own(rows: list[Any]) -> dict[str, Any]:
    """The assistant's message that calls are added to."""
    if not rows or rows[-1].get("role") != "assistant":
        rows.append({"role": "assistant", "content": None})
    last: dict[str, Any] = rows[-1]
    return last


def _is_open(rows: list[Any]) -> bool:
    """Whether the last message only thinks so far."""
    return bool(rows) and "reasoning" in rows[-1] and rows[-1]["content"] is None


_TEXTS = ("input_text", "output_text", "text")


def _content(content: Any) -> Any:
    """Content in the chat's form: text in parts as one text."""
    if not isinstance(content, list):
        return content
    parts = [_part(part) for part in content]
    if all(isinstance(part, dict) and part.get("type") == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    return parts


def _part(part: Any) -> Any:
    if not isinstance(part, dict):
        return part
    kind = part.get("type")
    if kind in _TEXTS and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind == "input_image" and isinstance(part.get("image_url"), str):
        return {"type": "image_url", "image_url": {"url": part["image_url"]}}
    return part

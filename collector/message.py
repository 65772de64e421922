"""The assistant message in one form, whichever API and server it came from.

`{"role", "content", "refusal", "reasoning", "tool_calls", "audio", "choices"}`, keys absent when
there is nothing to say. Text in parts is one text; pictures and sound are told by hash and size.
"""

import base64
import binascii
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import UNSET, Struct, UnsetType

from collector.openai_json import Choice, Function, Message, Output, ToolCall, thought_of
from everlearn.tolerant import UNREADABLE, loads, text


class Called(Struct, omit_defaults=True, gc=False):
    """What a call names: `arguments` as sent, `parsed` where they are a JSON object."""

    name: str | None
    arguments: str | None
    parsed: dict[str, Any] | UnsetType = UNSET


class Call(Struct, omit_defaults=True, gc=False):
    """One tool call; a tool that the server ran itself has a `type` of its own."""

    function: Called
    type: str
    id: str | None = None


class Assistant(Struct, omit_defaults=True, gc=False):
    """The canonical message."""

    role: str
    content: Any
    refusal: str | None = None
    reasoning: str | None = None
    tool_calls: list[Call] | None = None
    audio: dict[str, Any] | None = None
    choices: "list[Alternative] | None" = None


class Alternative(Struct, gc=False):
    """One of several choices."""

    index: int
    message: Assistant
    finish_reason: str | None


CLIENT_CALLS = ("function", "custom")
"""Types of the calls that the client is to run: what the answer asks for."""
_HIDDEN = ("thinking", "reasoning", "reasoning_text")


def assistant(message: Message) -> Assistant:
    """Of the chat API."""
    content = message.content
    found = Assistant("assistant", content if isinstance(content, str) else None)
    if message.refusal:
        found.refusal = plain(message.refusal)
    if (thought := thought_of(message)) is not None:
        found.reasoning = thinking(thought) or None
    if content is not None and not isinstance(content, str):
        _take_parts(found, content)
    if message.tool_calls:
        found.tool_calls = [_call(call) for call in message.tool_calls]
    elif message.function_call is not None and message.function_call.name:
        found.tool_calls = [Call(_called(message.function_call), "function")]
    if isinstance(message.audio, dict):
        found.audio = _by_reference(message.audio)
    if isinstance(message.images, list) and message.images:
        shown = [part for part in map(_part, message.images) if part is not None]
        before = [{"type": "text", "text": found.content}] if found.content else []
        found.content = (found.content if isinstance(found.content, list) else before) + shown
    return found


def responded(output: Iterable[Output]) -> Assistant:
    """Of the Responses API: its items as one message."""
    found = Assistant("assistant", None)
    contents: list[Any] = []
    thoughts: list[str] = []
    calls: list[Call] = []
    for item in output:
        if item.type == "reasoning":
            thoughts += filter(None, (plain(item.summary), plain(item.content)))
        elif item.type == "image_generation_call":
            contents.append(_by_reference({"type": "image", "data": item.result}))
        elif item.type == "message" or item.type is None:
            contents += item.content if isinstance(item.content, list) else [item.content]
        else:
            calls.append(_item_call(item))
    _take_parts(found, [part for part in contents if part is not None])
    if thoughts:
        found.reasoning = "\n".join(filter(None, (found.reasoning, *thoughts)))
    found.tool_calls = calls or None
    return found


def visible(message: Assistant) -> str | None:
    """What a person sees: the text, else the refusal, else what is heard; below it the calls that
    the client is to run, as JSON."""
    content = message.content
    seen = content if isinstance(content, str) or content is None else plain(content)
    if not seen:
        heard = message.audio.get("transcript") if message.audio else None
        seen = message.refusal or (heard if isinstance(heard, str) else None) or seen
    calls = [call for call in message.tool_calls or () if call.type in CLIENT_CALLS]
    if not calls:
        return seen
    shown = text(
        [
            {
                "id": call.id,
                "type": call.type,
                "function": {"name": call.function.name, "arguments": call.function.arguments},
            }
            for call in calls
        ]
    )
    return f"{seen}\n{shown}" if seen else shown


def plain(value: Any) -> str | None:
    """The text of whatever holds text: a text, parts, a part; None where there is none."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(filter(None, map(plain, value)))
    if isinstance(value, dict):
        said = (plain(value.get(key)) for key in ("text", "content", "refusal", "summary"))
        return next((each for each in said if each is not None), None)
    return str(value)


def thinking(value: Any) -> str | None:
    """The text of a thought: a text, or parts under the names of whoever made them."""
    if isinstance(value, list):
        return "".join(filter(None, map(thinking, value)))
    named = value.get("thinking") if isinstance(value, dict) else None
    return plain(value if named is None else named)


def arguments_text(value: Any) -> str | None:
    """A call's arguments as text: as sent, an object as JSON."""
    return value if value is None or isinstance(value, str) else text(value)


def _take_parts(found: Assistant, content: Any) -> None:
    """Content in parts: its text, refusal and thinking each to their place, the rest as parts."""
    shown: list[Any] = []
    for part in content if isinstance(content, list) else [content]:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "refusal":
            found.refusal = (found.refusal or "") + (plain(part.get("refusal")) or "")
        elif kind in _HIDDEN:
            found.reasoning = (found.reasoning or "") + (thinking(part) or "")
        elif (kept := _part(part)) is not None:
            shown.append(kept)
    if all(part.get("type") == "text" for part in shown):
        found.content = "".join(part["text"] for part in shown) if shown else None
    else:
        found.content = shown


def _part(part: Any) -> dict[str, Any] | None:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not isinstance(part, dict):
        return None
    if isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    found: dict[str, Any] = _by_reference(part)
    return found


def _by_reference(value: Any) -> Any:
    """The value with bytes (base64 `data`, `data:` URLs) told by hash and size."""
    if isinstance(value, list):
        return [_by_reference(item) for item in value]
    if not isinstance(value, dict):
        return value
    found: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, str) and (key in ("data", "b64_json") or item[:5] == "data:"):
            found |= _reference(item)
        else:
            found[key] = _by_reference(item)
    return found


def _reference(encoded: str) -> dict[str, Any]:
    payload = encoded.partition(",")[2] if encoded[:5] == "data:" else encoded
    try:
        content = base64.b64decode(payload)
    except (binascii.Error, ValueError):
        content = payload.encode("utf-8", "surrogatepass")
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def _call(call: ToolCall) -> Call:
    name = None if call.id is None else str(call.id)
    if call.custom is not None and call.function is None:
        return Call(Called(call.custom.name, arguments_text(call.custom.input)), "custom", name)
    return Call(_called(call.function or Function()), call.type or "function", name)


def _called(function: Function) -> Called:
    arguments = arguments_text(function.arguments)
    return Called(function.name, arguments, _parsed(arguments))


def _item_call(item: Output) -> Call:
    """A call of the Responses API, the client's or one that the server ran."""
    kind = item.type or "function_call"
    if kind == "function_call":
        arguments = arguments_text(item.arguments)
        called = Called(item.name, arguments, _parsed(arguments))
        return Call(called, "function", item.call_id or item.id)
    if kind == "custom_tool_call":
        return Call(Called(item.name, arguments_text(item.input)), "custom", item.call_id)
    given = (item.arguments, item.action, item.queries, item.code)
    asked = arguments_text(next((value for value in given if value is not None), None))
    named = item.name or kind.removesuffix("_call")
    return Call(Called(named, asked, _parsed(asked)), kind, item.call_id or item.id)


def _parsed(arguments: str | None) -> dict[str, Any] | UnsetType:
    """The arguments themselves, where they are a JSON object; none is how many servers call what
    takes none."""
    if not arguments or arguments.isspace():
        return {}
    if arguments.lstrip()[:1] != "{":
        return UNSET
    try:
        found = loads(arguments)
    except UNREADABLE:
        return UNSET
    return found if isinstance(found, dict) else UNSET


def alternatives(choices: Sequence[Choice], messages: Sequence[Assistant]) -> list[Alternative]:
    """Of several choices, all."""
    return [
        Alternative(number, message, choice.finish_reason)
        for number, (choice, message) in enumerate(zip(choices, messages, strict=True))
    ]

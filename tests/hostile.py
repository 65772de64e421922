"""Rows nobody would send and somebody will: made from the shapes of real servers by the rules of
JSON and of the schema, the same ones every time."""

import json
import random
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from everlearn.events import Completion, Feedback, FeedbackKind, Status
from everlearn.ids import new_id
from tests.builders import make_completion, make_feedback

TEXTS = (
    "", "\0", "a\0b", "\ufffd", "\U0001f600", "</s>", "{{ item.x }}", "%s", "'; DROP", "x" * 5000,
)  # fmt: skip
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 2**31, 2**63, 2**70, -(2**70), 1e308, *TEXTS, [], [[]], {},
    {"": {}}, [None], [1, "a", {}], {"type": []}, {"text": 5}, {"role": {}, "content": []}, [[[]]],
)  # fmt: skip
RAW = (
    "\\ud83d", "\\udc00\\ud83d", "\\u0000", "NaN", "1e999", "-Infinity", "1" * 5000, "[" * 3000,
    '{"a":' * 3000, "\\x", '"',
)  # fmt: skip
"""Put into the bytes where no JSON library would put it."""
STATUSES: tuple[Status, ...] = ("ok",) * 8 + ("shadow", "client_abort", "upstream_error")

_CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
_PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QQ=="}}
_REQUESTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("chat/completions", {
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}],
        "temperature": 0.5, "metadata": {"k": "v"}, "logit_bias": {}, "stop": ["x"]}),
    ("chat/completions", {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "q"}, _PICTURE]},
                     {"role": "assistant", "content": None, "tool_calls": [_CALL]},
                     {"role": "tool", "tool_call_id": "c1", "content": "18"}],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        "tool_choice": "auto", "response_format": {"type": "json_object"}}),
    ("completions", {"prompt": "once", "max_tokens": 5, "echo": False}),
    ("responses", {
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "q"}]},
                  {"type": "reasoning", "summary": []}, {"type": "function_call", "call_id": "c"},
                  {"type": "function_call_output", "call_id": "c", "output": "18"}],
        "instructions": "i", "previous_response_id": "r", "text": {"format": {"type": "text"}}}),
)  # fmt: skip
_LOGPROBS = {"content": [{"token": "a", "logprob": -0.5, "top_logprobs": []}]}
_USAGE = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
_MESSAGE = {
    "role": "assistant", "content": "a", "refusal": None, "reasoning": "r", "tool_calls": [_CALL],
    "audio": {"id": "au", "data": "QQ==", "transcript": "t"}, "images": [_PICTURE],
}  # fmt: skip
_RESPONSE = {
    "id": "resp", "object": "response", "status": "completed", "usage": _USAGE,
    "output": [{"type": "message", "content": [{"type": "output_text", "text": "a"}]},
               {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}],
}  # fmt: skip


def _chat(said: str, **message: Any) -> dict[str, Any]:
    choice = {
        "index": 0, said: message, "finish_reason": "stop", "token_ids": [1, 2],
        "logprobs": _LOGPROBS,
    }  # fmt: skip
    return {"id": "up", "object": "chat", "choices": [choice], "usage": _USAGE, "error": None}


_STREAMS: tuple[tuple[dict[str, Any], ...], ...] = (
    (_chat("delta", **_MESSAGE), _chat("delta", content="b"), {"choices": [], "usage": _USAGE}),
    (
        {"type": "response.created", "response": {**_RESPONSE, "output": []}},
        {"type": "response.output_item.added", "output_index": 0, "item": {"type": "message"}},
        {"type": "response.output_text.delta", "output_index": 0, "delta": "a"},
        {"type": "response.completed", "response": _RESPONSE},
    ),
)
_BODIES = (_chat("message", **_MESSAGE), _chat("message", content="a"), _RESPONSE)


def events(count: int, seed: int = 7) -> Iterator[Completion | Feedback | bytes]:
    """So many hostile completions, each with hostile feedback; some records are no events."""
    dice = random.Random(seed)
    for number in range(count):
        completion = _completion(dice, number)
        yield completion
        yield _feedback(dice, completion.completion_id)
        if number % 50 == 0:
            yield bytes(dice.randrange(256) for _ in range(30))


def _completion(dice: random.Random, number: int) -> Completion:
    endpoint, request = dice.choice(_REQUESTS)
    stream = dice.random() < 0.4
    if stream:
        chunks = [json.dumps(_bent(dice, chunk)) for chunk in dice.choice(_STREAMS)]
        response = "".join(f"data: {chunk}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    else:
        response = json.dumps(_bent(dice, dice.choice(_BODIES)))
    return make_completion(
        task="hostile",
        completion_id=new_id("cmpl"),
        received_at=1_800_000_000.0 + number,
        status=dice.choice(STATUSES),
        endpoint=endpoint,
        unit=dice.choice([f"u{number % 40}", None, "u\0", "\U0001f600"]),
        stream=stream,
        request=_torn(dice, json.dumps(_bent(dice, request))),
        response=_torn(dice, response),
    )


def _feedback(dice: random.Random, target: str) -> Feedback:
    kinds: tuple[FeedbackKind, ...] = ("binary", "correction", "label", "scalar", "preference")
    kind = dice.choice(kinds)
    return make_feedback(
        completion_id=target if dice.random() < 0.9 else dice.choice([None, "nobody", "\0"]),
        other_completion_id=dice.choice([target, "nobody", None]) if kind == "preference" else None,
        kind=kind,
        name=dice.choice(["thumbs", "thumbs", "", "\0"]),
        value_bool=dice.choice([True, False, None]),
        value_number=dice.choice([None, 0.0, -1e308, 1e308]),
        value_text=dice.choice([None, "a", *TEXTS]),
        comment=dice.choice([None, *TEXTS]),
        author=dice.choice(["end_user", "expert"]),
        author_id=dice.choice([None, *TEXTS]),
        weight=dice.choice([1.0, 0.0, -5.0, 1e300]),
        occurred_at=dice.choice([None, 0.0, -1e9, 1_900_000_000.0]),
        tags=dice.choice([None, {"": "\0"}]),
    )


def _bent(dice: random.Random, value: Any) -> Any:
    """The value with one to three of its places holding something else, or nothing."""
    bent = deepcopy(value)
    for _ in range(dice.randint(1, 3)):
        places = list(_places(bent))
        if places and dice.random() < 0.95:
            where, key = dice.choice(places)
            where[key] = deepcopy(dice.choice(ODD))
        elif dice.random() < 0.2:
            bent = deepcopy(dice.choice(ODD))
    return bent


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in the value: what holds it, and its key there."""
    for key in list(value) if isinstance(value, dict) else range(_length(value)):
        yield value, key
        yield from _places(value[key])


def _length(value: Any) -> int:
    return len(value) if isinstance(value, list) else 0


def _torn(dice: random.Random, text: str) -> bytes:
    """The bytes, now and then cut, or with something in them that is no JSON or no UTF-8."""
    chance = dice.random()
    at = dice.randrange(len(text) + 1)
    if chance < 0.1:
        return text[:at].encode()
    if chance < 0.25:
        return (text[:at] + dice.choice(RAW) + text[at:]).encode()
    if chance < 0.3:
        return text[:at].encode() + b"\xff\xfe\x00" + text[at:].encode()
    return text.encode()

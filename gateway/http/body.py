"""What the gateway reads of a request body, and the one thing it may change: the model's name.

Everything else of the body travels as the client's own bytes.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import msgspec

from everlearn.tolerant import UNREADABLE, fit, loads, whole
from gateway.http.wire import Refusal

_KEY = b'"model"'
_ESCAPED = b"\\u006"
"""Every letter of `model` escaped starts so, and nobody writes letters like that."""
_ESCAPED_CAPITAL = b"\\u004"
_VALUE = re.compile(rb'\s*:\s*("(?:[^"\\]|\\.)*")')
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\]]')
_COLON = re.compile(rb"\s*:\s*")
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
_decode_string = msgspec.json.Decoder(str).decode


class Body(msgspec.Struct, frozen=True, gc=False):
    """The fields the gateway acts on; all others are skipped, not checked."""

    model: str
    stream: bool | None = None
    user: Any = None
    safety_identifier: Any = None
    store: Any = None
    return_token_ids: Any = msgspec.UNSET
    logprobs: Any = msgspec.UNSET
    top_logprobs: Any = msgspec.UNSET


_decode = msgspec.json.Decoder(Body).decode


def read_body(raw: bytes) -> Body:
    """The fields of a JSON body; Refusal(400) in OpenAI's words if it has none."""
    try:
        return _decode(raw)
    except msgspec.ValidationError as error:
        text = str(error)
        param = "model" if "model" in text else "stream" if "stream" in text else None
        raise Refusal(400, f"Invalid request body: {text}", "invalid_type", param=param) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if _HALF.search(raw) and (found := _mended(raw)) is not None:
            return found
        text = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise Refusal(
            400, f"We could not parse the JSON body of your request: {text}", "invalid_json"
        ) from None


def _mended(raw: bytes) -> Body | None:
    """Of a body that holds half a character (JavaScript cuts texts so), which is JSON to others."""
    try:
        return fit(Body, whole(loads(raw)))
    except UNREADABLE:
        return None


def with_model(raw: bytes, model: str, was: str | None = None) -> bytes:
    """`raw` with the value of its top-level `model` replaced, every other byte as it was.

    `was`: the value that stands there, which saves looking for its end.
    """
    match = None
    parts = raw.split(_KEY, 2)
    # The first look is for one byte, a tenth of the cost of the second.
    if len(parts) == 2 and (raw.find(b"\\") < 0 or raw.find(_ESCAPED) < 0):
        before, after = parts
        if was is not None:
            for old, new in _values(was, model):
                if after.startswith(old):
                    return b"".join((before, new, after[len(old) :]))
        match = _VALUE.match(raw, len(before) + len(_KEY))
    start, end = match.span(1) if match is not None else _model_span(raw)
    return b"".join((raw[:start], msgspec.json.encode(model), raw[end:]))


@lru_cache(maxsize=1024)
def _values(was: str, model: str) -> list[tuple[bytes, bytes]]:
    """What follows the name as JSON writers write it, without and with a space; the member that
    replaces both."""
    old, new = msgspec.json.encode(was), msgspec.json.encode(model)
    return [(colon + old, _KEY + colon + new) for colon in (b":", b": ")]


def names_one_model(raw: bytes) -> bool:
    """Whether the body names its model once, in these letters: whoever reads it, ignoring case or
    taking the first of two, reads the same."""
    if raw.lower().count(_KEY) == 1 and raw.find(_ESCAPED) < 0 and raw.find(_ESCAPED_CAPITAL) < 0:
        return raw.count(_KEY) == 1
    return [name for name, _ in _top_level(raw) if name.casefold() == "model"] == ["model"]


def _model_span(raw: bytes) -> tuple[int, int]:
    """Where the last top-level `model` value stands; slow, for bodies with several `model` keys."""
    span: tuple[int, int] | None = None
    for name, value in _top_level(raw):
        if name == "model":
            span = value
    if span is None:
        raise Refusal(400, "Invalid request body: no `model`", "invalid_type", param="model")
    return span


def _top_level(raw: bytes) -> Iterator[tuple[str, tuple[int, int]]]:
    """The keys of the body itself, and where the token after each stands."""
    depth = 0
    tokens = list(_TOKEN.finditer(raw))
    for index, token in enumerate(tokens):
        if raw[token.start()] in b"{[":
            depth += 1
        elif raw[token.start()] in b"}]":
            depth -= 1
        elif depth == 1 and _COLON.match(raw, token.end()):
            yield _decode_string(token.group()), tokens[index + 1].span()

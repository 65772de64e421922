"""Whether an answer is one: read off what it says, not off HTTP.

Servers report failures inside HTTP 200, in chunks of a stream, beside choices and without; proxies
end streams politely in the middle. `Signs` gathers what an answer says about itself, `verdict`
decides. Pure; the gateway, the collector and whoever imports logs share it.

- Only `ok` is taught or counts as right.
- What the transport knows better (a client that left, a timeout, an answer asked in the shadow)
  stays as it is.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec import Struct

from everlearn.events import Status
from everlearn.tolerant import UNREADABLE, read, text

ANSWERING = frozenset({"chat/completions", "completions", "responses"})
"""Endpoints whose answer has choices or output; of others only a reported error is a failure."""

_ENDINGS: tuple[tuple[Status, re.Pattern[str]], ...] = (
    ("refused", re.compile("refus")),
    ("filtered", re.compile(
        "filter|safety|sensitive|recitation|blocklist|prohibited|guardrail|toxic|spii|armor|"
        "^language$|^risk"
    )),
    ("upstream_error", re.compile("error|fail|malformed|unexpected|too_many|insufficient")),
    ("incomplete", re.compile(
        "length|max_|limit|exceeded|abort|cancel|incomplete|in_progress|queued|timeout|pause|"
        "unload|unspecified|^other$"
    )),
)  # fmt: skip
"""Finish reasons that are no good end, by the words that OpenAI, Anthropic, Gemini, Bedrock, Cohere
and those who put them behind one address use; whoever says something else stopped by itself."""
FAILED: Final = "upstream_error"
_CLOSING = frozenset(
    {"response.completed", "response.incomplete", "response.failed", "response.cancelled"}
)
_MAX_ERROR = 500
"""Characters of an error that are kept."""


class Said(Struct, gc=False):
    """Of a message or a delta, what matters here."""

    refusal: Any = None


class Ending(Struct, gc=False):
    """Of a choice, what matters here."""

    index: Any = None
    finish_reason: str | None = None
    error: Any = None
    message: Said | None = None
    delta: Said | None = None


class Details(Struct, gc=False):
    """Why a response of the Responses API is incomplete."""

    reason: str | None = None


class Envelope(Struct, gc=False):
    """A whole body or one chunk of any endpoint, as far as it says how things ended."""

    choices: Sequence[Ending] | None = None
    output: Any = None
    error: Any = None
    object: str | None = None
    type: str | None = None
    status: str | None = None
    message: Any = None
    detail: Any = None
    code: Any = None
    delta: Any = None
    incomplete_details: Details | None = None
    response: "Envelope | None" = None


class Signs(Struct, gc=False):
    """What an answer has said so far about how it ended."""

    error: str | None = None
    finish_reason: str | None = None
    refused: bool = False
    ended: bool = False
    """It came to its own end: a whole body, `[DONE]` or the last event of the Responses API."""
    answered: bool = False
    """There was an answer, however short: choices or output."""


_decode = msgspec.json.Decoder(Envelope).decode


def envelope(data: bytes) -> Envelope | None:
    """A whole body or the data of one event; None when it is no JSON object."""
    try:
        return read(_decode, Envelope, data)
    except UNREADABLE:
        return None


def note(signs: Signs, said: Envelope) -> None:
    """Add what a body or a chunk says."""
    signs.error = signs.error or error_of(said)
    for choice in said.choices or ():
        signs.answered = True
        if not choice.index or signs.finish_reason is None:
            signs.finish_reason = choice.finish_reason or signs.finish_reason
            message = choice.message or choice.delta
            signs.refused |= message is not None and bool(message.refusal)
    if said.type is not None:
        _note_event(signs, said)
    if said.output is not None or said.object == "response":
        _note_response(signs, said)


def _note_event(signs: Signs, said: Envelope) -> None:
    """An event of a Responses stream."""
    signs.ended |= said.type in _CLOSING
    signs.refused |= said.type in ("response.refusal.delta", "response.refusal.done")
    if said.response is not None and said.type in _CLOSING:
        note(signs, said.response)


def _note_response(signs: Signs, said: Envelope) -> None:
    """A whole object of the Responses API."""
    signs.answered = True
    details = said.incomplete_details
    signs.finish_reason = (details and details.reason) or said.status or signs.finish_reason
    for item in said.output if isinstance(said.output, list) else ():
        parts = item.get("content") if isinstance(item, dict) else None
        for part in parts if isinstance(parts, list) else ():
            signs.refused |= isinstance(part, dict) and part.get("type") == "refusal"


@lru_cache(maxsize=256)
def _ending(finish_reason: str) -> Status:
    """What an answer is that ended for this reason."""
    word = finish_reason.lower()
    return next((status for status, words in _ENDINGS if words.search(word)), "ok")


def error_of(said: Envelope) -> str | None:
    """The error that a body or a chunk reports, in whichever shape; None when it reports none."""
    found = said.error
    for choice in said.choices or ():
        found = found or choice.error
        if not found and choice.finish_reason and _ending(choice.finish_reason) == FAILED:
            found = f"finish_reason {choice.finish_reason!r}"
    if not found and (said.object == "error" or said.type in ("error", "response.error")):
        found = said.message or said.code or "error"
    if not found and said.type == "response.failed":
        found = (said.response and said.response.error) or "response.failed"
    if not found and said.detail and said.choices is None and said.output is None:
        found = said.detail
    return _shown(found) if found else None


def _shown(error: Any) -> str:
    """In one line: the message of an error object, else all of it."""
    if isinstance(error, dict) and isinstance(error.get("message"), str) and error["message"]:
        error = error["message"]
    return (error if isinstance(error, str) else text(error))[:_MAX_ERROR]


def verdict(transport: Status, signs: Signs, endpoint: str) -> Status:
    """What became of the request, where `transport` is what the gateway saw of the connection."""
    if transport != "ok":
        return transport
    ending = _ending(signs.finish_reason) if signs.finish_reason else "ok"
    if signs.error is not None or ending == FAILED:
        return FAILED
    if endpoint not in ANSWERING:
        return "ok"
    if signs.refused:
        return "refused"
    if ending != "ok":
        return ending
    if not (signs.finish_reason or signs.ended):
        return "incomplete"
    return "ok" if signs.answered else FAILED

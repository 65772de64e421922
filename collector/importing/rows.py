"""What a logged conversation becomes: the events that the gateway would have written of it.

- Ids are hashes of what was logged, so that a row imported twice is the same row.
- The status is `imported`: such a row never counts in a release.
- It may be taught only where the importer says that the people consent, and never where the row
  itself says `store: false`.
"""

import hashlib
import math
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec

from everlearn.events import Author, Completion, Event, Feedback, FeedbackKind
from everlearn.verdict import Signs, envelope, note, verdict

THUMBS = {"up": True, "down": False}
EPOCH_MILLISECONDS = 1e11
"""Numbers above are milliseconds since 1970, not seconds."""

T = TypeVar("T", float, None)

_encode = msgspec.json.Encoder(order="deterministic").encode


class Refused(ValueError):
    """A row that cannot be imported, and why."""


class Skipped(ValueError):
    """A row that is nothing of ours by its kind: a span between the calls, say."""


@dataclass(frozen=True)
class Terms:
    """What holds for every row of an import."""

    format: str
    task: str | None = None
    consent: bool = False
    """Models may learn from these people's rows."""
    now: float = field(default_factory=time.time)
    """Unix seconds, of rows that bear no time."""


@dataclass(frozen=True)
class Conversation:
    """One request and its answer, in OpenAI's shapes."""

    messages: list[Any]
    answer: dict[str, Any]
    """The assistant message."""
    source_id: str | None = None
    """Where the log numbers its rows; else the content is the identity."""
    request: dict[str, Any] = field(default_factory=dict)
    """Beside messages: model, tools, sampling, metadata."""
    finish_reason: str | None = None
    usage: dict[str, Any] | None = None
    at: Any = None
    latency_ms: float = 0.0
    unit: str | None = None
    conversation_id: str | None = None
    request_id: str | None = None
    trainable: bool = True


def digest(terms: Terms, *parts: Any) -> str:
    """26 hexadecimal letters of anything that JSON can hold."""
    return hashlib.sha256(_encode([terms.format, *parts])).hexdigest()[:26]


def completion_id(terms: Terms, source_id: str) -> str:
    """Ours, of a row that the log itself numbers."""
    return f"imp_{digest(terms, source_id)}"


def completion(terms: Terms, said: Conversation) -> Completion:
    """The event; Refused where nothing was asked or answered."""
    _check_messages(said.messages)
    if not any(said.answer.get(key) for key in ("content", "tool_calls", "refusal")):
        raise Refused("there is no answer: the assistant message is empty")
    found = (
        completion_id(terms, said.source_id)
        if said.source_id
        else f"imp_{digest(terms, said.messages, said.answer, said.request, str(said.at))}"
    )
    model = said.request.get("model")
    response = _response(said, said.source_id or found)
    # An answer cut short or filtered is no answer to learn, whoever consents.
    whole = _verdict(response) == "ok"
    return Completion(
        completion_id=found,
        received_at=unix(said.at, terms.now),
        endpoint="chat/completions",
        status="imported",
        http_status=200,
        latency_ms=said.latency_ms,
        request_id=said.request_id,
        task=terms.task,
        unit=said.unit or said.conversation_id or found,
        conversation_id=said.conversation_id,
        model_requested=_text(model),
        model_served=_text(model),
        trainable=terms.consent
        and whole
        and said.trainable
        and said.request.get("store") is not False,
        request=msgspec.json.encode({**said.request, "messages": said.messages}),
        response=response,
    )


def _response(said: Conversation, name: str) -> bytes:
    """The body that an upstream would have sent; logs often leave out why an answer ended."""
    choice = {"index": 0, "message": {"role": "assistant", **said.answer}}
    reply = {
        "id": name,
        "object": "chat.completion",
        "model": said.request.get("model"),
        "choices": [{**choice, "finish_reason": said.finish_reason or "stop"}],
        "usage": said.usage,
    }
    return msgspec.json.encode(reply)


def _verdict(response: bytes) -> str:
    signs, said = Signs(), envelope(response)
    if said is not None:
        note(signs, said)
    return verdict("ok", signs, "chat/completions")


def _check_messages(messages: Any) -> None:
    if not isinstance(messages, list) or not messages:
        raise Refused("there is no question: `messages` is empty")
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise Refused(f"messages[{number}] has no role")


def feedback(
    terms: Terms, target: dict[str, str | None], given: dict[str, Any], *, source_id: str = ""
) -> Feedback:
    """The event of one rating; `target` names completion_id, request_id or conversation_id."""
    value, name = given.get("value"), str(given.get("name") or "thumbs")
    kind = given.get("kind")
    if isinstance(value, str) and kind in (None, "binary"):
        value = THUMBS.get(value, value)
    kind = kind or _kind(value, given)
    if not _fits(kind, value):
        raise Refused(f"feedback {name!r}: a {kind} with the value {value!r}")
    return Feedback(
        feedback_id=f"fbi_{digest(terms, 'feedback', target, given, source_id)}",
        received_at=terms.now,
        kind=kind,
        name=name,
        value_bool=value if isinstance(value, bool) else None,
        value_number=float(value)
        if isinstance(value, int | float) and not isinstance(value, bool)
        else None,
        value_text=value if isinstance(value, str) else None,
        comment=_text(given.get("comment")),
        author=_author(given.get("author")),
        author_id=_text(given.get("author_id")),
        occurred_at=unix(given.get("occurred_at"), None),
        other_completion_id=target.get("other_completion_id"),
        completion_id=target.get("completion_id"),
        request_id=target.get("request_id"),
        conversation_id=target.get("conversation_id"),
        tags={"imported": terms.format},
    )


def _kind(value: Any, given: dict[str, Any]) -> FeedbackKind:
    if isinstance(value, bool):
        return "binary"
    if isinstance(value, int | float):
        return "scalar"
    if value is None and given.get("comment"):
        return "comment"
    return "label"


def _fits(kind: str, value: Any) -> bool:
    if kind == "binary":
        return isinstance(value, bool)
    if kind == "scalar":
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and math.isfinite(value)
    if kind in ("label", "correction"):
        return isinstance(value, str) and bool(value)
    return kind in ("comment", "preference")


def _author(author: Any) -> Author:
    if author is None:
        return "end_user"
    if author not in ("end_user", "expert", "judge", "code"):
        raise Refused(f"feedback author {author!r}: end_user, expert, judge or code")
    found: Author = author
    return found


def unix(at: Any, default: T) -> float | T:
    """Unix seconds of a number or an ISO time (UTC where no zone stands)."""
    if at is None or at == "":
        return default
    if isinstance(at, datetime):
        found = at
    elif isinstance(at, int | float) and not isinstance(at, bool):
        return at / 1000 if at > EPOCH_MILLISECONDS else float(at)
    else:
        try:
            found = datetime.fromisoformat(str(at))
        except ValueError as error:
            raise Refused(f"{at!r} is no time") from error
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def parsed(value: Any) -> Any:
    """JSON that stands in the log as text, parsed; anything else as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError):
            return value
    return value


def seconds_between(start: Any, end: Any) -> float:
    """Of two times in a log; 0 where one is missing."""
    first, last = unix(start, None), unix(end, None)
    return 0.0 if first is None or last is None else max(0.0, last - first)


Events = list[Event]

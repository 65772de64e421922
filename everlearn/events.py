"""What happened, as it travels from the gateway to the lake: versioned, without behaviour.

The gateway stores raw request and response bytes and parses nothing that the collector can parse
later. An event is encoded as MessagePack with a literal tag in `type`; readers ignore fields
they do not know, and a `schema_version` above `SCHEMA_VERSION` goes to the dead letters.
"""

from typing import Any, Literal

import msgspec

SCHEMA_VERSION = 1

Status = Literal[
    "ok",
    "incomplete",
    "filtered",
    "refused",
    "upstream_error",
    "client_abort",
    "timeout",
    "rejected",
    "shadow",
    "passed",
    "imported",
]
"""What became of a request. The gateway writes what it saw of the transport (`passed`: a route that
it only passes on; `imported`: not its own); the collector, the verdict read off the answer."""
Arm = Literal["champion", "challenger", "holdback"]
Author = Literal["end_user", "expert", "judge", "code"]
FeedbackKind = Literal[
    "binary", "scalar", "label", "correction", "comment", "preference", "implicit", "retraction"
]


class Completion(msgspec.Struct, kw_only=True, tag="completion", omit_defaults=True):
    """One request and its answer, ok or not, as it was sent and received.

    Only the gateway changes one, while the request runs.
    """

    completion_id: str
    received_at: float
    """Unix seconds when the request's first byte was read."""
    endpoint: str
    """Path under /v1: `chat/completions`, `completions`, `embeddings`, `responses`."""
    status: Status
    http_status: int
    latency_ms: float
    schema_version: int = SCHEMA_VERSION
    first_token_ms: float | None = None
    stream: bool = False
    request_id: str | None = None
    task: str | None = None
    version: str | None = None
    arm: Arm | None = None
    probability: float | None = None
    """Of this unit getting this arm, at the moment of assignment, among champion and challenger (or
    each one of several); for `holdback` the holdback share."""
    release: str | None = None
    stage: int | None = None
    """Index of the release step that was in force at assignment."""
    unit: str | None = None
    draw: str | None = None
    """The number by which a release drew this arm, for whom it draws: its unit there."""
    conversation_id: str | None = None
    key_id: str | None = None
    upstream: str | None = None
    model_requested: str | None = None
    model_served: str | None = None
    """The model name sent to the upstream (for a task the arm's adapter)."""
    adapter_digest: str | None = None
    template_hash: str | None = None
    trainable: bool = True
    """False when the client said `store: false`."""
    request: bytes = b""
    response: bytes = b""
    """Body as received from the upstream; of a stream, the SSE bytes sent so far."""
    error: str | None = None
    fallback_from: str | None = None
    """The arm or upstream that failed before the first byte, if this answer is a fallback."""


class Feedback(msgspec.Struct, frozen=True, kw_only=True, tag="feedback", omit_defaults=True):
    """What somebody thought of a completion; the target may not have arrived yet."""

    feedback_id: str
    received_at: float
    kind: FeedbackKind
    name: str
    schema_version: int = SCHEMA_VERSION
    completion_id: str | None = None
    """Ours or the upstream's id; of a preference the preferred completion."""
    request_id: str | None = None
    conversation_id: str | None = None
    other_completion_id: str | None = None
    value_bool: bool | None = None
    value_number: float | None = None
    value_text: str | None = None
    comment: str | None = None
    author: Author = "end_user"
    author_id: str | None = None
    weight: float = 1.0
    occurred_at: float | None = None
    """Not believed where it is later than `received_at`."""
    idempotency_key: str | None = None
    tags: dict[str, str] | None = None
    key_id: str | None = None
    """Whose key sent it; idempotency keys are his."""
    key_tasks: str | None = None
    """Tasks that key may speak of, by commas; None: all."""


Event = Completion | Feedback

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Completion | Feedback] = msgspec.msgpack.Decoder(Event)


def encode(event: Event) -> bytes:
    """The bytes of one WAL record or Kafka message."""
    return _encoder.encode(event)


def decode(payload: bytes | memoryview) -> Event:
    """The event in `payload`.

    Raises msgspec.DecodeError or ValidationError on garbage and ValueError on a newer schema.
    """
    event = _decoder.decode(payload)
    if event.schema_version > SCHEMA_VERSION:
        raise ValueError(
            f"schema_version {event.schema_version} is newer than {SCHEMA_VERSION}: "
            "upgrade the collector"
        )
    return event


def to_json(event: Event) -> dict[str, Any]:
    """The event as plain JSON types, for people and tests."""
    return dict(msgspec.to_builtins(event))

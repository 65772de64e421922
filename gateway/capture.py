"""Every request becomes one event in the write-ahead log, before its answer's last byte leaves.

A failure to capture is counted and logged, never shown to the user (`on_full: reject` excepted).
"""

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from everlearn.config import Capture
from everlearn.events import Arm, Completion, Event, Feedback, Status, encode
from everlearn.telemetry import Telemetry
from everlearn.wal import WalStats, WalWriter
from gateway.server import Request

log = logging.getLogger(__name__)

MASKED = b"[masked]"
REJECTED_BODY_BYTES = 16 * 2**10
"""Kept of a rejected request's body."""


class Draft:
    """What is known of a request so far; `Recorder.complete` turns it into an event."""

    __slots__ = (
        "adapter_digest", "arm", "completion_id", "conversation_id", "endpoint", "error",
        "fallback_from", "first_token_ms", "key_id", "lines", "model_requested", "model_served",
        "probability", "recorded", "release", "request", "request_id", "stage", "stream", "task",
        "template_hash", "trainable", "unit", "upstream", "version",
    )  # fmt: skip

    def __init__(self, request: Request, endpoint: str, completion_id: str) -> None:
        self.request = request
        self.endpoint = endpoint
        self.completion_id = completion_id
        self.stream = False
        self.trainable = True
        self.first_token_ms: float | None = None
        self.request_id: str | None = None
        self.task: str | None = None
        self.version: str | None = None
        self.arm: Arm | None = None
        self.probability: float | None = None
        self.release: str | None = None
        self.stage: int | None = None
        self.unit: str | None = None
        self.conversation_id: str | None = None
        self.key_id: str | None = None
        self.upstream: str | None = None
        self.model_requested: str | None = None
        self.model_served: str | None = None
        self.adapter_digest: str | None = None
        self.template_hash: str | None = None
        self.error: str | None = None
        self.fallback_from: str | None = None
        self.recorded = False
        self.lines = b""
        """Header lines that tell the client who answered."""

    def again(self, completion_id: str) -> "Draft":
        """A copy with an identity of its own."""
        copy = Draft(self.request, self.endpoint, completion_id)
        for name in self.__slots__:
            if name != "completion_id":
                setattr(copy, name, getattr(self, name))
        return copy


class Recorder:
    """Masks, encodes and appends events."""

    def __init__(
        self, root: Path, worker: int, settings: Capture, telemetry: Telemetry | None = None
    ) -> None:
        self._telemetry = telemetry
        self._wal = WalWriter(root, worker, settings)
        self._masks = masks(settings.mask)
        self._forced = settings.durability == "fsync"
        self.errors = 0
        """Events lost to an unexpected error; those lost to a full WAL are in `stats`."""

    @property
    def accepting(self) -> bool:
        """False when the policy is to refuse requests that could not be captured."""
        return self._wal.accepting

    def complete(self, draft: Draft, status: Status, http_status: int, response: bytes) -> int:
        """Append the request's event; its number to wait for, 0 if there is nothing to wait for."""
        request = draft.request
        body = request.body
        if status == "rejected":
            body = body[:REJECTED_BODY_BYTES]
        if self._masks:
            body, response = mask(body, self._masks), mask(response, self._masks)
        return self._append(
            Completion(
                completion_id=draft.completion_id,
                received_at=request.received_at,
                endpoint=draft.endpoint,
                status=status,
                http_status=http_status,
                latency_ms=request.elapsed_ms(),
                first_token_ms=draft.first_token_ms,
                stream=draft.stream,
                request_id=draft.request_id,
                task=draft.task,
                version=draft.version,
                arm=draft.arm,
                probability=draft.probability,
                release=draft.release,
                stage=draft.stage,
                unit=draft.unit,
                conversation_id=draft.conversation_id,
                key_id=draft.key_id,
                upstream=draft.upstream,
                model_requested=draft.model_requested,
                model_served=draft.model_served,
                adapter_digest=draft.adapter_digest,
                template_hash=draft.template_hash,
                trainable=draft.trainable,
                request=body,
                response=response,
                error=draft.error,
                fallback_from=draft.fallback_from,
            ),
            request.known.get(b"traceparent"),
        )

    def feedback(self, event: Feedback) -> int:
        """Append one feedback event."""
        if self._masks:
            event = msgspec.structs.replace(
                event,
                value_text=_masked_text(event.value_text, self._masks),
                comment=_masked_text(event.comment, self._masks),
            )
        return self._append(event)

    async def durable(self, number: int) -> None:
        """Return once the event is as safe as the config promises."""
        if self._forced and number:
            try:
                await self._wal.durable(number)
            except OSError as error:
                self._failed(error)

    @property
    def forced(self) -> bool:
        """Whether `durable` waits at all."""
        return self._forced

    def stats(self) -> WalStats:
        """State of the log."""
        return self._wal.stats()

    def close(self) -> None:
        """Close the log."""
        self._wal.close()
        if self._telemetry is not None:
            self._telemetry.close()

    def _append(self, event: Event, traceparent: bytes | None = None) -> int:
        try:
            number = self._wal.append(encode(event)) or 0
            if self._telemetry is not None:
                self._telemetry.event(event, traceparent)
            return number
        except Exception as error:  # a user's answer never depends on capture
            self._failed(error)
            return 0

    def _failed(self, error: Exception) -> None:
        self.errors += 1
        log.error("capture failed: %s: %s", type(error).__name__, error)


def masks(patterns: Sequence[str]) -> tuple[re.Pattern[bytes], ...]:
    """Compiled for the bytes of a body."""
    return tuple(re.compile(pattern.encode()) for pattern in patterns)


def mask(body: bytes, patterns: Sequence[re.Pattern[bytes]]) -> bytes:
    """`body` with every match replaced."""
    for pattern in patterns:
        body = pattern.sub(MASKED, body)
    return body


def _masked_text(text: str | None, patterns: Sequence[re.Pattern[bytes]]) -> str | None:
    return mask(text.encode(), patterns).decode("utf-8", "replace") if text else text

"""Langfuse: `POST /api/public/scores`, one score or (as clients of version 5 send them) an array,
and of older clients the scores in `POST /api/public/ingestion`.

An observation, its trace and a session are looked for by these names. A score's `id` is its
idempotency key: sent again with another value it is a change. Its source says nothing of who speaks
(over the API `ANNOTATION` is what a reviewer is still to look at). Of an array the good ones are
taken; the answer says how many were not, and why.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from everlearn.ids import new_id
from gateway.feedback import FeedbackAnswer
from gateway.feedback_formats.format import (
    Content,
    Outcome,
    Reading,
    Sent,
    Translated,
    an_object,
    given,
    malformed,
    needed,
    tags,
)
from gateway.http.wire import Refusal

TYPES = ("NUMERIC", "BOOLEAN", "CATEGORICAL", "TEXT", "CORRECTION")
ERRORS = {
    401: "UnauthorizedError", 403: "ForbiddenError", 429: "RateLimitError",
    503: "ServiceUnavailableError",
}  # fmt: skip


class Langfuse:
    """Scores of observations, traces and sessions."""

    path = "/api/public/scores"
    terms: ClassVar[Mapping[str, str]] = {
        "completion_id": "observationId", "request_id": "traceId", "conversation_id": "sessionId",
        "idempotency_key": "id", "occurred_at": "timestamp",
    }  # fmt: skip

    def read(self, sent: Sent) -> Reading:
        """One score, or those of an array that are good."""
        if not isinstance(sent.content, list):
            return Reading([_piece(an_object(sent.content), sent)])
        return Reading([_tried(one, sent) for one in sent.content], partial=True)

    def answer(self, sent: Sent, outcomes: Sequence[Outcome]) -> Content:
        """The id of one; of an array how many."""
        if not isinstance(sent.content, list):
            [taken] = outcomes
            assert isinstance(taken, FeedbackAnswer)
            return 200, {"id": sent.content.get("id") or taken.feedback_id}
        errors = [{"message": one.message} for one in outcomes if isinstance(one, Refusal)]
        if not errors:
            return 202, {"message": "Accepted"}
        taken_in = len(outcomes) - len(errors)
        return 207, {"accepted": taken_in, "rejected": len(errors), "errors": errors}

    def refused(self, refusal: Refusal) -> Content:
        """What is malformed is 400 there."""
        status = 400 if refusal.status == 422 else refusal.status
        name = ERRORS.get(status, "InvalidRequestError")
        return status, {"error": name, "message": refusal.message}

    def feedback_id(self) -> str:
        """Ours."""
        return new_id("fb")


class LangfuseIngestion(Langfuse):
    """Events of older clients. The scores are taken; answers are captured here, not told."""

    path = "/api/public/ingestion"

    def read(self, sent: Sent) -> Reading:
        """Those that are good."""
        return Reading([_event(event, sent) for event in _batch(sent)], partial=True)

    def answer(self, sent: Sent, outcomes: Sequence[Outcome]) -> Content:
        """What became of each."""
        ids = [event.get("id") if isinstance(event, dict) else None for event in _batch(sent)]
        results = [
            ({"id": name if isinstance(name, str) else None}, outcome)
            for name, outcome in zip(ids, outcomes, strict=True)
        ]
        successes = [
            {**named, "status": 201} for named, one in results if isinstance(one, FeedbackAnswer)
        ]
        errors = [
            {**named, "status": self.refused(one)[0], **self.refused(one)[1]}
            for named, one in results
            if isinstance(one, Refusal)
        ]
        return 207, {"successes": successes, "errors": errors}


def _batch(sent: Sent) -> Sequence[Any]:
    batch = needed(an_object(sent.content), "batch")
    if not isinstance(batch, list):
        raise malformed("`batch` is a list of events")
    return batch


def _event(event: Any, sent: Sent) -> Translated:
    if not isinstance(event, dict) or event.get("type") != "score-create":
        return malformed("of events only those of type score-create are taken")
    return _tried(event.get("body"), sent)


def _tried(one: Any, sent: Sent) -> Translated:
    try:
        return _piece(an_object(one, "a score"), sent)
    except Refusal as refusal:
        return refusal


def _piece(score: Mapping[str, Any], sent: Sent) -> Mapping[str, Any]:
    trace, observation = score.get("traceId"), score.get("observationId")
    session = score.get("sessionId") if trace is None and observation is None else None
    if trace is None and observation is None and session is None:
        raise malformed("name one of `traceId`, `observationId` and `sessionId`")
    beside = {name: score.get(name) for name in ("environment", "configId", "queueId", "source")}
    return given(
        completion_id=trace if observation is None else observation,
        request_id=observation if trace is None else trace,
        conversation_id=session,
        name=needed(score, "name"),
        comment=score.get("comment"),
        author=sent.author,
        occurred_at=score.get("timestamp"),
        idempotency_key=score.get("id"),
        tags=tags(score.get("metadata")) | tags(beside),
    ) | _value(score)  # fmt: skip


def _value(score: Mapping[str, Any]) -> dict[str, Any]:
    value, said = needed(score, "value"), score.get("dataType")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    kind = said or ("NUMERIC" if number else "CATEGORICAL")
    if kind not in TYPES:
        raise malformed(f"`dataType` is one of {', '.join(TYPES)}, not {kind!r:.60}")
    if kind == "BOOLEAN":
        if value not in (0, 1):
            raise malformed(f"`value` of a BOOLEAN is 1 or 0, not {value!r:.60}")
        return {"value": bool(value)}
    if (kind == "NUMERIC") != number or not (number or isinstance(value, str)):
        raise malformed(f"`value` of a {kind} is a {'number' if kind == 'NUMERIC' else 'text'}")
    if kind == "TEXT":
        # A comment on the text is one more thing said.
        comment = "\n".join(text for text in (value, score.get("comment")) if text)
        return {"kind": "comment", "comment": comment}
    return {"value": value} | ({"kind": "correction"} if kind == "CORRECTION" else {})

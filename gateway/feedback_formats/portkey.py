"""Portkey: `POST /v1/feedback` `{trace_id, value, weight?, metadata?}`, or an array of them.

Their value is from -10 to 10 and bears no name: it is called `portkey`, whose scale that is. Where
thumbs alone are sent (1, 0, -1), the task says `feedback: {portkey: {scale: binary}}`. Their weight
is kept as a tag: what a word weighs is learned here, not said.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from everlearn.ids import new_id
from gateway.authority import names_units
from gateway.feedback import FeedbackAnswer
from gateway.feedback_formats.format import (
    Content,
    Outcome,
    Reading,
    Sent,
    an_object,
    given,
    malformed,
    needed,
    tags,
)
from gateway.http.wire import Refusal

NAME = "portkey"
LOWEST, HIGHEST = -10, 10


class Portkey:
    """Values of traces."""

    path = "/v1/feedback"
    terms: ClassVar[Mapping[str, str]] = {"completion_id": "trace_id", "request_id": "trace_id"}

    def sent_it(self, headers: Mapping[bytes, bytes], content: Any) -> bool:
        """Whether it is theirs and not ours."""
        first = content[0] if isinstance(content, list) and content else content
        return b"x-portkey-api-key" in headers or (isinstance(first, dict) and "trace_id" in first)

    def read(self, sent: Sent) -> Reading:
        """All pieces, or none."""
        many = sent.content if isinstance(sent.content, list) else [sent.content]
        return Reading([_piece(an_object(one, "feedback"), sent) for one in many])

    def answer(self, sent: Sent, outcomes: Sequence[Outcome]) -> Content:
        """Every id."""
        ids = [one.feedback_id for one in outcomes if isinstance(one, FeedbackAnswer)]
        message = "Feedback successfully saved"
        return 200, {"status": "success", "message": message, "feedback_ids": ids}

    def refused(self, refusal: Refusal) -> Content:
        """What is malformed is 400 there."""
        status = 400 if refusal.status == 422 else refusal.status
        return status, {"status": "failure", "message": refusal.message}

    def feedback_id(self) -> str:
        """Ours."""
        return new_id("fb")


def _piece(one: Mapping[str, Any], sent: Sent) -> Mapping[str, Any]:
    value, weight = needed(one, "value"), one.get("weight")
    if type(value) is not int or not LOWEST <= value <= HIGHEST:
        raise malformed(f"`value` is a whole number from {LOWEST} to {HIGHEST}, not {value!r:.60}")
    known = tags(one.get("metadata"))
    # Of a key that may not speak for users the name says nothing of who it is.
    rater = known.get("_user") if sent.key is not None and names_units(sent.key) else None
    return given(
        completion_id=needed(one, "trace_id"), request_id=one["trace_id"], name=NAME,
        author=sent.author, author_id=rater,
        tags=known if weight is None else {**known, "weight": str(weight)},
    ) | {"value": value}  # fmt: skip

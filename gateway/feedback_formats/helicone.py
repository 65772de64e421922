"""Helicone: `POST /v1/request/{id}/feedback` `{"rating": true}`."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from everlearn.ids import new_id
from gateway.feedback_formats.format import (
    Content,
    Outcome,
    Reading,
    Sent,
    an_object,
    malformed,
    needed,
)
from gateway.http.wire import Refusal


class Helicone:
    """A thumb of an answer."""

    path = "/v1/request/{request_id}/feedback"
    terms: ClassVar[Mapping[str, str]] = {"value": "rating"}

    def read(self, sent: Sent) -> Reading:
        """One piece."""
        rating = needed(an_object(sent.content), "rating")
        if not isinstance(rating, bool):
            raise malformed(f"`rating` is true or false, not {rating!r:.60}")
        name = sent.names["request_id"]
        piece = {
            "completion_id": name, "request_id": name, "value": rating, "author": sent.author,
        }  # fmt: skip
        return Reading([piece])

    def answer(self, sent: Sent, outcomes: Sequence[Outcome]) -> Content:
        """No id is told."""
        return 200, {"data": None, "error": None}

    def refused(self, refusal: Refusal) -> Content:
        """The message stands in `error`."""
        return refusal.status, {"data": None, "error": refusal.message}

    def feedback_id(self) -> str:
        """Ours."""
        return new_id("fb")

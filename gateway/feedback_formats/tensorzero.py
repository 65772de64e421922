"""TensorZero: `POST /feedback` `{metric_name, value, inference_id | episode_id, tags?, dryrun?}`.

An episode is a conversation. `comment` and `demonstration` are names of their own kinds there: a
demonstration is what the answer should have been, as text or content blocks.
"""

import json
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

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

KINDS = {"comment": "comment", "demonstration": "correction"}
"""Of the names that are reserved."""


class TensorZero:
    """A metric, a comment or a demonstration."""

    path = "/feedback"
    terms: ClassVar[Mapping[str, str]] = {
        "completion_id": "inference_id", "request_id": "inference_id",
        "conversation_id": "episode_id", "name": "metric_name", "comment": "value",
    }  # fmt: skip

    def read(self, sent: Sent) -> Reading:
        """One piece."""
        body = an_object(sent.content)
        inference, episode = body.get("inference_id"), body.get("episode_id")
        if (inference is None) == (episode is None):
            raise malformed("name exactly one of `inference_id` and `episode_id`")
        name, value = needed(body, "metric_name"), needed(body, "value")
        kind = KINDS.get(name) if isinstance(name, str) else None
        if kind == "correction":
            value = _text(value)
        piece = given(
            completion_id=inference, request_id=inference, conversation_id=episode, name=name,
            kind=kind, tags=tags(body.get("tags"), "tags"), author=sent.author,
        ) | ({"comment": value} if kind == "comment" else {"value": value})  # fmt: skip
        return Reading([piece], dry=body.get("dryrun") is True)

    def answer(self, sent: Sent, outcomes: Sequence[Outcome]) -> Content:
        """Its id."""
        [taken] = outcomes
        assert isinstance(taken, FeedbackAnswer)
        return 200, {"feedback_id": taken.feedback_id}

    def refused(self, refusal: Refusal) -> Content:
        """What is malformed is 400 there."""
        return 400 if refusal.status == 422 else refusal.status, {"error": refusal.message}

    def feedback_id(self) -> str:
        """Its client takes nothing but a UUID: one of version 7, which sorts by time."""
        number = int(time.time() * 1000) << 80 | int.from_bytes(os.urandom(10))
        number = number & ~(0xF << 76) & ~(0x3 << 62) | 7 << 76 | 2 << 62
        return str(uuid.UUID(int=number))


def _text(value: Any) -> Any:
    """Of a demonstration what a user would see; of a JSON function's the JSON."""
    if isinstance(value, list):
        blocks = [block for block in value if isinstance(block, dict)]
        if len(blocks) == len(value) and all(block.get("type") == "text" for block in blocks):
            return "\n".join(str(block.get("text", "")) for block in blocks)
        raise malformed("`value` of a demonstration is a text, an object or blocks of text")
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value

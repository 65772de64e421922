"""Feedback on its way in, whatever format it came in: limits, idempotency, capture, metrics.

- What is answered `accepted` is captured as the config promises; else the answer is an error and
  nothing of it is stored.
- A piece of feedback counts as a request of its key.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gateway.feedback import (
    AnyName,
    FeedbackAnswer,
    FeedbackIn,
    Seen,
    bounded,
    check,
    checked,
    repeated,
    to_event,
)
from gateway.feedback_formats.format import Content, Format, Outcome, Sent
from gateway.http.wire import Refusal
from gateway.keys import Holder
from gateway.metrics import FEEDBACK
from gateway.parts import Parts


class Intake:
    """Takes feedback of one worker."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._seen = Seen()

    async def take(
        self,
        holder: Holder | None,
        items: Sequence[FeedbackIn],
        feedback_id: Callable[[], str] | None = None,
    ) -> list[FeedbackAnswer]:
        """All of them, or Refusal; `feedback_id` gives each that is new its name."""
        key = None if holder is None else holder.key
        check(items, key)
        if holder is not None:
            holder.speak(len(items))
        if not self._parts.recorder.accepting:
            raise full()
        now = time.time()
        answers, events, fresh = [], [], Seen()
        for item in items:
            event = to_event(item, now, key, feedback_id=feedback_id and feedback_id())
            known = repeated(event, fresh.last(event) or self._seen.last(event))
            if known is not None:
                answers.append(FeedbackAnswer(feedback_id=known, status="duplicate"))
                continue
            fresh.put(event)
            events.append(event)
            answers.append(FeedbackAnswer(feedback_id=event.feedback_id, status="accepted"))
        # Dropping is for answers, which users need all the same: "accepted" must be true.
        if not await self._parts.recorder.feedback(events):
            raise full()
        for event in events:
            self._seen.put(event)
        for answer in answers:
            self._parts.metrics.count(FEEDBACK, answer.status)
        return answers

    async def translate(self, form: Format, sent: Sent, holder: Holder | None) -> Content:
        """The same in another tool's format; Refusal says why not."""
        reading = form.read(sent)
        outcomes: list[Outcome | FeedbackIn] = []
        for piece in bounded(reading.pieces):
            item = piece if isinstance(piece, Refusal) else _item(piece, sent)
            if isinstance(item, Refusal):
                item = in_terms_of(form, item)
                if not reading.partial:
                    raise item
            outcomes.append(item)
        items = [item for item in outcomes if isinstance(item, FeedbackIn)]
        if reading.dry:
            answers = [FeedbackAnswer(feedback_id=form.feedback_id(), status="accepted")]
        else:
            answers = await self.take(holder, items, form.feedback_id) if items else []
        taken = iter(answers)
        return form.answer(
            sent, [next(taken) if isinstance(one, FeedbackIn) else one for one in outcomes]
        )


def full() -> Refusal:
    """The answer to what could not be captured."""
    message = "Capture is full: nothing more can be recorded now."
    return Refusal(503, message, "capture_full", retry_after_seconds=1)


def _item(piece: Mapping[str, Any], sent: Sent) -> FeedbackIn | Refusal:
    try:
        item = checked(AnyName, piece)
        check([item], sent.key)
    except Refusal as refusal:
        return refusal
    return item


def in_terms_of(form: Format, refusal: Refusal) -> Refusal:
    """The same error, of the fields that were sent."""
    message = refusal.message
    for ours, theirs in form.terms.items():
        message = message.replace(f"`{ours}`", f"`{theirs}`")
    return Refusal(
        refusal.status, message, refusal.code, retry_after_seconds=refusal.retry_after_seconds
    )

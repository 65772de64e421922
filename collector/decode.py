"""Events to rows: parses what the gateway stored raw. What cannot be parsed stays null beside the
raw bytes; only an event that cannot be read at all is a dead letter.

A row is the event's own fields, then what was read from the bodies: most columns are copied at once
and no line of Python runs for them.
"""

from typing import Any

from msgspec.structs import astuple

from collector.answer import Answer, read_answer
from collector.request import Asked, read_asked
from everlearn.events import Completion, Feedback
from everlearn.tolerant import text

Row = tuple[Any, ...]

_RAW = {"request": "raw_request", "response": "raw_response"}

COMPLETION_FIELDS = (
    *(_RAW.get(name, name) for name in Completion.__struct_fields__),
    *Answer.__struct_fields__,
    *("gateway_id", "seq", "received_at"),
    *Asked.__struct_fields__,
)
"""What the values of a `completion_row` are; of a name that stands twice the second one counts."""

FEEDBACK_FIELDS = (
    *Feedback.__struct_fields__,
    *("gateway_id", "seq", "received_at", "occurred_at", "tags"),
)
"""What the values of a `feedback_row` are; of a name that stands twice the second one counts."""


def completion_row(event: Completion, gateway_id: str, seq: int) -> Row:
    """The `completions` row of one event: values of `COMPLETION_FIELDS`."""
    answer, asked = read_answer(event), read_asked(event.request)
    identity = (gateway_id, seq, int(event.received_at * 1e6))
    return astuple(event) + astuple(answer) + identity + astuple(asked)


def feedback_row(event: Feedback, gateway_id: str, seq: int) -> Row:
    """The `feedback` row of one event: values of `FEEDBACK_FIELDS`."""
    return (
        *astuple(event),
        gateway_id,
        seq,
        int(event.received_at * 1e6),
        None if event.occurred_at is None else int(event.occurred_at * 1e6),
        None if event.tags is None else text(event.tags),
    )

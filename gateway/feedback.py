"""`POST /v1/feedback`: what people send, checked and turned into events. Pure but for the memory
of idempotency keys.

- Malformed feedback is refused whole (422) and nothing of it is stored; an unknown id is not
  malformed: the completion may come later.
- A key seen before is answered `duplicate`; the memory is bounded, the lake deduplicates for good.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    model_validator,
)

from everlearn.events import Author, Feedback, FeedbackKind
from everlearn.ids import new_id

MAX_ITEMS = 1000
MAX_REMEMBERED = 100_000
"""Idempotency keys per worker, about 20 MB."""

Id = Annotated[str, Field(min_length=1, max_length=256)]
Text = Annotated[str, Field(max_length=100_000)]
THUMBS = {"up": True, "down": False}
TARGETS = ("completion_id", "request_id", "conversation_id")
VALUE_TYPES: dict[FeedbackKind, tuple[type, ...]] = {
    "binary": (bool,),
    "scalar": (int, float),
    "label": (str,),
    "correction": (str,),
    "comment": (str,),
}
"""Of `value`, by kind; kinds not named here take any value or none."""


class FeedbackIn(BaseModel):
    """One piece of feedback as sent."""

    model_config = ConfigDict(extra="forbid")

    completion_id: Id | None = None
    request_id: Id | None = None
    conversation_id: Id | None = None
    preferred: Id | None = None
    other: Id | None = None
    name: Annotated[str, Field(min_length=1, max_length=128)] = "thumbs"
    value: StrictBool | StrictInt | StrictFloat | StrictStr | None = None
    kind: FeedbackKind | None = None
    author: Author = "end_user"
    author_id: Id | None = None
    comment: Text | None = None
    occurred_at: AwareDatetime | None = None
    idempotency_key: Id | None = None
    tags: dict[str, str] | None = None

    @model_validator(mode="after")
    def _one_target(self) -> "FeedbackIn":
        named = [name for name in TARGETS if getattr(self, name) is not None]
        pair = (self.preferred is not None) + (self.other is not None)
        if pair == 1:
            raise ValueError("`preferred` and `other` go together")
        if len(named) + pair // 2 != 1:
            raise ValueError(
                "name exactly one of completion_id, request_id, conversation_id, "
                "or preferred and other"
            )
        return self

    @model_validator(mode="after")
    def _value_fits(self) -> "FeedbackIn":
        kind, value = self.resolved_kind, self.plain_value
        allowed = VALUE_TYPES.get(kind)
        if self.preferred is None and kind == "preference":
            raise ValueError("kind preference needs `preferred` and `other`")
        if self.preferred is not None and kind != "preference":
            raise ValueError(f"`preferred` and `other` are of kind preference, not {kind}")
        if kind == "comment" and value is None and self.comment:
            return self
        if allowed is not None and (
            not isinstance(value, allowed) or (kind == "scalar" and isinstance(value, bool))
        ):
            names = " or ".join(kind.__name__ for kind in allowed)
            raise ValueError(f"kind {kind} needs a `value` of type {names}")
        if isinstance(value, str) and len(value) > 100_000:
            raise ValueError("`value` is longer than 100,000 characters")
        if isinstance(value, float) and not (-1e308 < value < 1e308):
            raise ValueError("`value` is not a finite number")
        return self

    @property
    def plain_value(self) -> bool | int | float | str | None:
        """`value` with thumbs in words as true and false."""
        if isinstance(self.value, str) and self.kind in (None, "binary"):
            return THUMBS.get(self.value, self.value)
        return self.value

    @property
    def resolved_kind(self) -> FeedbackKind:
        """`kind`, else what the value says."""
        if self.kind is not None:
            return self.kind
        value = self.plain_value
        if self.preferred is not None:
            return "preference"
        if isinstance(value, bool):
            return "binary"
        if isinstance(value, int | float):
            return "scalar"
        return "label" if isinstance(value, str) else "comment"


class FeedbackAnswer(BaseModel):
    """What became of it."""

    feedback_id: str
    status: Literal["accepted", "duplicate"]


def to_event(sent: FeedbackIn, received_at: float) -> Feedback:
    """The event of a checked piece of feedback; `received_at` in Unix seconds."""
    value = sent.plain_value
    is_bool = isinstance(value, bool)
    return Feedback(
        feedback_id=new_id("fb"),
        received_at=received_at,
        kind=sent.resolved_kind,
        name=sent.name,
        completion_id=sent.preferred or sent.completion_id,
        request_id=sent.request_id,
        conversation_id=sent.conversation_id,
        other_completion_id=sent.other,
        value_bool=value if isinstance(value, bool) else None,
        value_number=float(value) if isinstance(value, int | float) and not is_bool else None,
        value_text=value if isinstance(value, str) else None,
        comment=sent.comment,
        author=sent.author,
        author_id=sent.author_id,
        occurred_at=sent.occurred_at.timestamp() if sent.occurred_at else None,
        idempotency_key=sent.idempotency_key,
        tags=sent.tags,
    )


class Seen:
    """Feedback ids by idempotency key, the oldest forgotten first."""

    def __init__(self, size: int = MAX_REMEMBERED) -> None:
        self._size = size
        self._ids: OrderedDict[str, str] = OrderedDict()

    def get(self, key: str | None) -> str | None:
        """The feedback that came with that key."""
        return self._ids.get(key) if key is not None else None

    def put(self, key: str | None, feedback_id: str) -> None:
        """Remember it."""
        if key is None:
            return
        self._ids[key] = feedback_id
        if len(self._ids) > self._size:
            self._ids.popitem(last=False)

    def forget(self, keys: Iterable[str | None]) -> None:
        """What came with these keys was not kept."""
        for key in keys:
            if key is not None:
                self._ids.pop(key, None)


def explain(errors: list[Any]) -> str:
    """One line from pydantic's findings."""
    first = errors[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else str(first["msg"])

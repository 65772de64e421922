"""`POST /v1/feedback`: what people send, checked and turned into events. Pure but for the memory
of idempotency keys.

- Malformed feedback is refused whole (422, in the sender's words) and nothing of it is stored; an
  unknown id is not malformed: the completion may come later. So is what the key may not say (403).
- An idempotency key is its owner's. The same again about the same target is answered `duplicate`,
  with another value it is a change and counts. The memory is bounded; the lake tells by the same
  rule for good.
"""

import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NoReturn

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
    field_validator,
    model_validator,
)

from everlearn.config import Key
from everlearn.events import Author, Feedback, FeedbackKind
from everlearn.ids import new_id
from gateway.authority import name_of, refusal
from gateway.http.wire import Refusal

MAX_ITEMS = 1000
MAX_REMEMBERED = 100_000
"""Idempotency keys per worker, about 20 MB."""

Id = Annotated[str, Field(min_length=1, max_length=256)]
Text = Annotated[str, Field(max_length=100_000)]
HALF = "holds half a character (a lone surrogate, such as half an emoji)"
THUMBS = {"up": True, "down": False}
WORDS = {
    **THUMBS, "thumbs_up": True, "thumbs_down": False, "true": True, "false": False, "yes": True,
    "no": False, "like": True, "dislike": False, "positive": True, "negative": False,
    "\U0001f44d": True, "\U0001f44e": False,
}  # fmt: skip
"""What forms and buttons send for a thumb; under any other name a word is a label."""
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
        # An integer may have any length: compared before it becomes a float.
        if isinstance(value, int | float) and not -1e308 < value < 1e308:
            raise ValueError("`value` is not a finite number below 1e308")
        return self

    @field_validator("occurred_at")
    @classmethod
    def _on_the_calendar(cls, value: datetime | None) -> datetime | None:
        try:
            if value is not None:
                value.astimezone(UTC)  # what reads it back does so
        except OverflowError:
            raise ValueError("`occurred_at` is before the year 1 or after 9999 in UTC") from None
        return value

    @model_validator(mode="after")
    def _can_be_written(self) -> "FeedbackIn":
        for name, value in self:
            texts = [*value, *value.values()] if isinstance(value, dict) else [value]
            if any(isinstance(text, str) and _broken(text) for text in texts):
                raise ValueError(f"`{name}` {HALF}")
        return self

    @property
    def completions(self) -> list[str]:
        """Every completion that it names by an id."""
        named = (self.completion_id, self.preferred, self.other)
        return [name for name in named if name is not None]

    @property
    def plain_value(self) -> bool | int | float | str | None:
        """`value` with thumbs in words as true and false."""
        if not isinstance(self.value, str) or self.kind not in (None, "binary"):
            return self.value
        if self.kind == "binary" or self.name == "thumbs":
            return WORDS.get(self.value.strip().lower().replace("-", "_"), self.value)
        return THUMBS.get(self.value, self.value)

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


class AnyName(FeedbackIn):
    """Of a tool that knows an answer by one name: `completion_id` and `request_id` are held against
    the names of the same completion."""

    @model_validator(mode="after")
    def _one_target(self) -> "AnyName":
        if all(getattr(self, name) is None for name in TARGETS):
            raise ValueError("`completion_id` is empty")
        return self


class FeedbackAnswer(BaseModel):
    """What became of it."""

    feedback_id: str
    status: Literal["accepted", "duplicate"]


Seeming = tuple[str, tuple[Any, ...]]
"""The id of the piece that an idempotency key last brought, and what it said."""


def to_event(
    sent: FeedbackIn, received_at: float, key: Key | None = None, *, feedback_id: str | None = None
) -> Feedback:
    """The event of a checked piece of feedback; `received_at` in Unix seconds."""
    value = sent.plain_value
    is_bool = isinstance(value, bool)
    return Feedback(
        feedback_id=feedback_id or new_id("fb"),
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
        author_id=name_of(key, sent),
        occurred_at=sent.occurred_at.timestamp() if sent.occurred_at else None,
        idempotency_key=sent.idempotency_key,
        tags=sent.tags,
        key_id=None if key is None else key.id,
        key_tasks=",".join(key.tasks) or None if key is not None else None,
    )


def parse(body: bytes) -> Any:
    """What the JSON of a body says; Refusal(422) if it is none."""
    try:
        return json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise _malformed(f"The body is not JSON: {reason}") from None


def read(content: Any) -> tuple[list[FeedbackIn], bool]:
    """The pieces of a body, and whether it is an array; Refusal(422) says what is wrong."""
    many = isinstance(content, list)
    pieces = bounded(content if many else [content])
    items = []
    for number, piece in enumerate(pieces):
        where = f"piece {number}: " if many else ""
        if not isinstance(piece, dict):
            raise _malformed(f"{where}feedback is an object, or an array of them")
        items.append(checked(FeedbackIn, piece, where))
    return items, many


def bounded(pieces: Sequence[Any]) -> Sequence[Any]:
    """Refusal(422) if they are too many."""
    if len(pieces) > MAX_ITEMS:
        raise _malformed(f"{len(pieces)} pieces of feedback; {MAX_ITEMS} are allowed at once")
    return pieces


def checked(kind: type[FeedbackIn], piece: Mapping[str, Any], where: str = "") -> FeedbackIn:
    """One piece; Refusal(422) says what is wrong."""
    try:
        return kind.model_validate(piece)
    except ValidationError as error:
        raise _malformed(where + explain(error.errors())) from None


def check(items: Iterable[FeedbackIn], key: Key | None) -> None:
    """Refusal(403) with the reason if the holder of the key may not say one of them."""
    for item in items:
        reason = refusal(key, item)
        if reason is not None:
            raise Refusal(403, reason, "not_allowed")


class Seen:
    """What idempotency keys brought last, the oldest forgotten first."""

    def __init__(self, size: int = MAX_REMEMBERED) -> None:
        self._size = size
        self._known: OrderedDict[tuple[Any, ...], Seeming] = OrderedDict()

    def last(self, event: Feedback) -> Seeming | None:
        """What came last under the idempotency key of this piece."""
        return self._known.get(_mark(event)) if event.idempotency_key is not None else None

    def put(self, event: Feedback) -> None:
        """Remember it."""
        if event.idempotency_key is None:
            return
        self._known[_mark(event)] = event.feedback_id, _content(event)
        if len(self._known) > self._size:
            self._known.popitem(last=False)


def repeated(event: Feedback, last: Seeming | None) -> str | None:
    """The id of the piece that this one repeats."""
    return last[0] if last is not None and last[1] == _content(event) else None


def _mark(event: Feedback) -> tuple[Any, ...]:
    """Owner and key, rater and target: as the lake's `feedback_state` has it."""
    return (
        event.idempotency_key, event.key_id, event.author, event.author_id, event.completion_id,
        event.request_id, event.conversation_id, event.other_completion_id,
    )  # fmt: skip


def _content(event: Feedback) -> tuple[Any, ...]:
    tags = None if event.tags is None else tuple(event.tags.items())
    return (
        event.kind, event.name, event.value_bool, event.value_number, event.value_text,
        event.comment, tags,
    )  # fmt: skip


def explain(errors: Sequence[Any]) -> str:
    """One line in the sender's words."""
    first = errors[0]
    where = ".".join(str(part) for part in first["loc"] if part not in VALUE_BRANCHES)
    said = f"{first['input']!r}"
    received = "" if len(said) > 60 else f", not {said}"
    context = first.get("ctx", {})
    match first["type"]:
        case "extra_forbidden":
            return f"`{where}` is no field; there are: {', '.join(FeedbackIn.model_fields)}"
        case "literal_error":
            return f"`{where}` is one of {context['expected'].replace(' or ', ', ')}{received}"
        case "string_too_long":
            return f"`{where}` has at most {context['max_length']:,} characters"
        case "string_unicode":
            return f"`{where}` {HALF}"
        case "string_too_short":
            return f"`{where}` is empty"
        case "timezone_aware":
            return f"`{where}` needs a time zone, as in 2026-01-31T12:00:00Z{received}"
        case kind if "datetime" in kind:
            return f"`{where}` is a time, as 2026-01-31T12:00:00Z{received}"
        case "value_error":
            return str(context["error"])
    if where == "value":
        return f"`value` is true, false, a number or a text{received}"
    if where == "tags" or where.startswith("tags."):
        return "`tags` is a flat map of texts"
    return f"`{where}` is a text{received}"


VALUE_BRANCHES = frozenset({"bool", "int", "float", "str"})
"""What pydantic calls the kinds of a value."""


def _malformed(reason: str) -> Refusal:
    return Refusal(422, reason, "malformed")


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _broken(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False

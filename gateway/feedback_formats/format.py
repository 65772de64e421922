"""What a format is, and what the formats have in common. Pure.

- A tool names an answer by one id. Whatever it is (ours, the upstream's, the `x-request-id` that
  the caller chose) it is looked for as each of them.
- Fields that a format has beyond ours are kept as tags where they say something; others are let
  pass, as the tool's own server lets them.
- Who speaks is the key's to say, where the format does not.
"""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from everlearn.config import Key
from everlearn.events import Author
from gateway.feedback import FeedbackAnswer
from gateway.http.wire import Refusal

_KEY_HEADERS = (b"x-portkey-api-key", b"helicone-auth")
_OWN_WORD: Mapping[str, Author] = {"expert": "expert", "judge": "judge"}
"""As whom the holder of a key speaks who does not say it, by his role; all others as users."""

Translated = Mapping[str, Any] | Refusal
"""One piece as our own format has it, or why it is none."""
Outcome = FeedbackAnswer | Refusal
"""What became of one piece."""
Content = tuple[int, Any]
"""Status and body of an answer; text is sent as it is, all else as JSON."""


@dataclass(frozen=True)
class Sent:
    """A request as a format reads it."""

    content: Any
    """Of the JSON body."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Parameters of path and query."""
    key: Key | None = None

    @property
    def author(self) -> Author:
        """Who speaks, where the format does not say it."""
        return "end_user" if self.key is None else _OWN_WORD.get(self.key.role, "end_user")


@dataclass(frozen=True)
class Reading:
    """What a request holds."""

    pieces: Sequence[Translated]
    partial: bool = False
    """Whether good pieces are taken although others are not."""
    dry: bool = False
    """Checked only."""


class Format(Protocol):
    """One tool's format."""

    @property
    def path(self) -> str:
        """Of its route."""
        ...

    @property
    def terms(self) -> Mapping[str, str]:
        """What it calls fields of ours, so that errors speak of what was sent."""
        ...

    def read(self, sent: Sent) -> Reading:
        """Translate; Refusal(422) for what cannot be."""
        ...

    def answer(self, sent: Sent, outcomes: Sequence[Outcome]) -> Content:
        """What the tool's client expects."""
        ...

    def refused(self, refusal: Refusal) -> Content:
        """The same of an error."""
        ...

    def feedback_id(self) -> str:
        """A new one, in the form that its client can read."""
        ...


def malformed(reason: str) -> Refusal:
    """What cannot be understood."""
    return Refusal(422, reason, "malformed")


def an_object(content: Any, where: str = "the body") -> Mapping[str, Any]:
    """Refusal if it is none."""
    if not isinstance(content, dict):
        raise malformed(f"{where} is an object, not {type(content).__name__}")
    return content


def needed(content: Mapping[str, Any], name: str) -> Any:
    """Refusal if the field is not there."""
    if content.get(name) is None:
        raise malformed(f"`{name}` is missing")
    return content[name]


def given(**fields: Any) -> dict[str, Any]:
    """Those that say something."""
    return {name: value for name, value in fields.items() if value not in (None, "", {})}


def tags(fields: Mapping[str, Any] | None, name: str = "metadata") -> dict[str, str]:
    """Of any JSON object a flat map of texts."""
    return {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in ({} if fields is None else an_object(fields, f"`{name}`")).items()
        if value is not None
    }


def with_key(headers: Mapping[bytes, bytes]) -> Mapping[bytes, bytes]:
    """Headers with the key where ours has it, wherever the tool's client puts it."""
    for name in _KEY_HEADERS:
        if name in headers:
            shown = headers[name].rpartition(b" ")[2]
            return {**headers, b"authorization": b"Bearer " + shown}
    scheme, _, rest = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() != b"basic":
        return headers
    try:
        password = base64.b64decode(rest.strip(), validate=True).partition(b":")[2]
    except binascii.Error:
        return headers
    return {**headers, b"authorization": b"Bearer " + password}

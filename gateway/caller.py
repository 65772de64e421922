"""Who asks, as far as a request's head says it: worked out once for all requests that carry the
same head, and anew when the keys change. A refusal is not remembered.
"""

import hashlib
from collections.abc import Mapping

from everlearn.events import Completion
from gateway.authority import names_units
from gateway.http.heads import Head
from gateway.http.wire import Refusal
from gateway.keys import Keyring

MAX_ID_BYTES = 256
"""Of a request, unit or conversation id."""
_UNIT = b"x-everlearn-unit"
_CONVERSATION = b"x-everlearn-conversation"
_REQUEST_ID = b"x-request-id"


class Caller:
    """Whose key it is, and who he says is asking."""

    __slots__ = ("_conversation", "_keys", "_may_name", "_prefix", "_unit", "holder", "key_id")

    def __init__(self, known: Mapping[bytes, bytes], keyring: Keyring) -> None:
        """Refusal for a key that is wrong, or a page that has no business here."""
        self._keys = keyring.generation
        self.holder = holder = keyring.holder(known)
        self.key_id = None if holder is None else holder.key.id
        self._may_name = holder is None or names_units(holder.key)
        self._prefix = "" if self._may_name else f"{self.key_id}/"
        """Of the names that a key which may not speak for users gives its units."""
        self._conversation = _identifier(known.get(_CONVERSATION))
        self._unit = _identifier(known.get(_UNIT))

    @classmethod
    def of(cls, head: Head, keyring: Keyring) -> "Caller":
        """Of a request with that head."""
        known: Caller | None = head.kept.get(cls)
        if known is None or known._keys != keyring.generation:
            known = head.kept[cls] = cls(head.known, keyring)
        return known

    def check(self) -> None:
        """Refusal(403) where he names users for whom his key may not speak."""
        if self._unit is not None and not self._may_name:
            message = (
                f"The key {self.key_id!r} may not speak for users: leave x-everlearn-unit out, "
                "or have a key made with `--may-speak-for users`."
            )
            raise Refusal(403, message, "not_allowed")

    def identify(self, draft: Completion, safety_identifier: object, user: object) -> str:
        """Note the conversation and the unit; the unit. The names are the body's."""
        draft.conversation_id = self._conversation
        unit = (
            self._unit
            or _string(safety_identifier)
            or _string(user)
            or self._conversation
            or draft.request_id
        )
        unit = draft.unit = draft.completion_id if unit is None else self._prefix + unit
        return unit


def request_id(head: Head) -> str | None:
    """The caller's own name of a request."""
    return _identifier(head.known.get(_REQUEST_ID))


def _identifier(header: bytes | None) -> str | None:
    return None if header is None else _bounded(header.decode("utf-8", "replace"))


def _string(value: object) -> str | None:
    if type(value) is int:  # many number their users
        value = str(value)
    return _bounded(value) if isinstance(value, str) and value else None


def _bounded(identifier: str) -> str:
    """An identifier as it is kept; of one that is too long the hash stands for it, so that it still
    joins what belongs together."""
    if len(identifier) <= MAX_ID_BYTES // 4:
        return identifier
    raw = identifier.encode("utf-8", "replace")
    if len(raw) <= MAX_ID_BYTES:
        return identifier
    return "sha256:" + hashlib.sha256(raw).hexdigest()

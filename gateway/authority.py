"""Who may say what: pure functions of a key and a piece of feedback.

- `author` only as far as the key's role allows.
- Somebody else's name only for a key that may speak for users, and only for users; an operator's
  may name anybody.
- A retraction is a word like any other: one takes back one's own.
- Who gives no name has the key's, so that of no key's feedback it is open who said it - but for a
  key that may speak for users, whose users may stay unnamed.
- A key that is limited to tasks speaks of their completions. Of an id that does not tell its task
  (`everlearn.ids`) the lake decides by the same rule, once it is joined.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from everlearn.config import Key, Role
from everlearn.events import Author, FeedbackKind
from everlearn.ids import may_be_of

ROLES: Mapping[Author, frozenset[Role]] = {
    "end_user": frozenset({"client", "expert", "judge", "service", "operator"}),
    "expert": frozenset({"expert", "operator"}),
    "judge": frozenset({"judge", "service", "operator"}),
    "code": frozenset({"service", "operator"}),
}
"""Who may speak as whom."""


class Said(Protocol):
    """What of a piece of feedback is checked."""

    @property
    def author(self) -> Author: ...
    @property
    def author_id(self) -> str | None: ...
    @property
    def resolved_kind(self) -> FeedbackKind: ...
    @property
    def completions(self) -> Sequence[str]: ...


def refusal(key: Key | None, said: Said) -> str | None:
    """Why the holder of `key` may not say this; None if he may. Without any key everything may be
    said: then everlearn is a program on one's own machine."""
    if key is None:
        return None
    if key.role not in ROLES[said.author]:
        allowed = " or ".join(sorted(ROLES[said.author]))
        return (
            f"`author`: {said.author!r} needs a key of role {allowed}; "
            f"the key {key.id!r} has role {key.role!r}"
        )
    if key.tasks:
        for name in said.completions:
            if not may_be_of(name, key.tasks):
                return (
                    f"the completion {name!r} is not of a task of the key {key.id!r}: "
                    f"it speaks of {', '.join(key.tasks)} only"
                )
    if said.author_id in (None, key.id) or key.role == "operator":
        return None
    if said.author != "end_user":
        return (
            f"`author_id`: the key {key.id!r} speaks as {said.author} in its own name only; "
            f"leave it out or send {key.id!r}"
        )
    if key.may_speak_for == "users":
        return None
    if said.resolved_kind == "retraction":
        return f"`author_id`: the key {key.id!r} takes back its own word only"
    return (
        f"`author_id`: the key {key.id!r} may not speak for others; an application's server has a "
        "key made with `everlearn keys create --may-speak-for users`"
    )


def name_of(key: Key | None, said: Said) -> str | None:
    """The `author_id` that is kept."""
    if said.author_id is not None or key is None:
        return said.author_id
    unnamed = said.author == "end_user" and key.may_speak_for == "users"
    return None if unnamed else key.id


def names_units(key: Key | None) -> bool:
    """Whether the holder's word is taken for who his users are."""
    return key is None or key.may_speak_for == "users" or key.role == "operator"

"""Client keys in the state store, made by the command line and looked up by gateways.

- Of a key only its SHA-256 is stored: it has 256 random bits, so that no salt is needed.
- A revoked key stays, marked: its id stands in the lake, and a store that ever held a key never
  again says that none is needed.
"""

import hashlib
import secrets
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from everlearn.config import Key
from everlearn.errors import InputError, NotFound
from everlearn.yaml_file import describe

if TYPE_CHECKING:
    from everlearn.state import State

KIND = "key"
PREFIX = "everlearn-"
"""Every key begins with it, so that a leaked one is found and one of ours is told from others."""


class StoredKey(Key):
    """A key of the state store."""

    created_at: float
    """Unix seconds."""
    revoked_at: float | None = None
    """Unix seconds; since then it opens nothing."""


def create_key(state: "State", now: float, **fields: Any) -> str:
    """Store a key with the fields of `config.Key` but its hash; the key itself, which exists
    nowhere else. InputError if the id exists, even revoked, or a field is wrong."""
    from everlearn.state import StateConflict

    secret = PREFIX + secrets.token_urlsafe(32)
    digest = hashlib.sha256(secret.encode()).hexdigest()
    try:
        key = StoredKey(sha256=digest, created_at=now, **fields)
    except ValidationError as error:
        raise InputError(describe(error, "key", StoredKey)) from error
    try:
        state.put(KIND, key.id, key.model_dump(mode="json"))
    except StateConflict as error:
        raise InputError(f"key {key.id}: exists already; a revoked id is not used again") from error
    return secret


def revoke_key(state: "State", key_id: str, now: float) -> None:
    """Mark a key as revoked; NotFound if there is none. Twice is as good as once."""
    found = state.get(KIND, key_id)
    if found is None:
        raise NotFound(f"key {key_id}: not in the state store; those of the config end there")
    document, revision = found
    if document.get("revoked_at") is None:
        state.put(KIND, key_id, {**document, "revoked_at": now}, revision)


def stored_keys(state: "State") -> tuple[list[StoredKey], list[str]]:
    """Every key, revoked ones too, and one line for each document that is none."""
    keys, unreadable = [], []
    for key_id, document in state.all(KIND):
        try:
            keys.append(StoredKey(**document))
        except (ValidationError, TypeError):
            unreadable.append(f"key {key_id} in the state store cannot be read")
    return keys, unreadable

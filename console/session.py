"""Who is signed in, as whom and until when.

- A session is a signed cookie: whose key, until when. Its secret is new at each start.
- A role is what the key says now: a key that was revoked ends its sessions.
- Every session has a token that a change must bring along; no other site can read it.
"""

import hashlib
import hmac
import secrets
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from threading import Lock
from typing import Literal

from everlearn.clock import Clock
from everlearn.config import Key, Service
from everlearn.config import Role as KeyRole
from everlearn.keys import stored_keys
from everlearn.state import open_state

Role = Literal["viewer", "labeller", "operator"]
RANKS: Mapping[Role, int] = {"viewer": 0, "labeller": 1, "operator": 2}
OF_KEY: Mapping[KeyRole, Role] = {
    "viewer": "viewer",
    "service": "viewer",
    "expert": "labeller",
    "operator": "operator",
}
"""What a key may do here. Applications and judges have nothing to look for."""
SESSION_SECONDS = 12 * 3600.0
KEYS_SECONDS = 2.0
"""How long a revoked key may still be known."""
OWNER = "start token"
"""Whoever started the console here, or reads its file: an operator."""


@dataclass(frozen=True)
class Person:
    """Who asks."""

    name: str
    role: Role
    tasks: tuple[str, ...] = ()
    """Empty: all."""
    session: str = ""
    """The cookie; empty for a program, which sends its key with each request."""

    def may(self, role: Role) -> bool:
        return RANKS[self.role] >= RANKS[role]

    def sees(self, task: str | None) -> bool:
        return not self.tasks or task in self.tasks


def person(key: Key, session: str = "") -> Person | None:
    """The holder of a key; None if it opens nothing here."""
    role = OF_KEY.get(key.role)
    return None if role is None else Person(key.id, role, key.tasks, session)


class Sessions:
    """Makes and reads cookies."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        self._ended: dict[str, float] = {}

    def begin(self, name: str) -> str:
        """A cookie for the holder of that key."""
        until = self._clock.now() + SESSION_SECONDS
        claim = f"{until:.0f}.{secrets.token_hex(8)}.{name.encode().hex()}"
        return f"{claim}.{self._sign('session', claim)}"

    def name(self, cookie: str) -> str | None:
        """Whose it is; None when it is not ours, has expired or was ended."""
        claim, _, signature = cookie.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._sign("session", claim).encode()):
            return None
        until, _, name = claim.split(".")
        if self._clock.now() >= float(until) or cookie in self._ended:
            return None
        return bytes.fromhex(name).decode()

    def end(self, cookie: str) -> None:
        """Sign out."""
        now = self._clock.now()
        self._ended = {each: until for each, until in self._ended.items() if until > now}
        self._ended[cookie] = now + SESSION_SECONDS

    def csrf(self, cookie: str) -> str:
        """What every change of this session must bring along."""
        return self._sign("change", cookie) if cookie else ""

    def _sign(self, use: str, text: str) -> str:
        return hmac.digest(self._secret, f"{use}:{text}".encode(), "sha256").hex()


class Keys:
    """The keys of config and state store, asked again every `KEYS_SECONDS`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._lock = Lock()
        self._read_at = float("-inf")
        self._keys: tuple[Key, ...] = ()

    def of(self, secret: str) -> Key | None:
        """The key itself; None if it is none that is in force."""
        digest = hashlib.sha256(secret.encode()).hexdigest()
        found = self._with(digest)
        if found is None:
            self._read_at = float("-inf")  # it may have been made just now
            found = self._with(digest)
        return found

    def _with(self, digest: str) -> Key | None:
        return next((key for key in self.all() if hmac.compare_digest(key.sha256, digest)), None)

    def named(self, key_id: str) -> Key | None:
        return next((key for key in self.all() if key.id == key_id), None)

    def all(self) -> tuple[Key, ...]:
        """Those in force; StateError when the store cannot be asked."""
        with self._lock:
            if time.monotonic() - self._read_at > KEYS_SECONDS:
                with closing(open_state(self._service)) as state:
                    stored, _ = stored_keys(state)
                valid = tuple(key for key in stored if key.revoked_at is None)
                self._keys = (*self._service.gateway.keys, *valid)
                self._read_at = time.monotonic()
            return self._keys

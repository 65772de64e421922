"""Client keys: who asks, what they may use, and how much of it.

Keys are known by their SHA-256 only. Limits are those of one worker.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence

from everlearn.config import Key
from gateway.wire import Refusal


class Bucket:
    """Tokens that come back over a minute; it may be overdrawn and is then paid back."""

    __slots__ = ("_at", "_level", "_per_minute")

    def __init__(self, per_minute: int, now: float) -> None:
        self._per_minute = per_minute
        self._level = float(per_minute)
        self._at = now

    def wait_seconds(self, amount: float, now: float) -> float:
        """Until `amount` can be taken; 0 means now."""
        refill = (now - self._at) * self._per_minute / 60
        self._level, self._at = min(self._level + refill, float(self._per_minute)), now
        return max(0.0, (amount - self._level) * 60 / self._per_minute)

    def take(self, amount: float) -> None:
        """Spend."""
        self._level -= amount


class Holder:
    """One key and what is left of its limits."""

    def __init__(self, key: Key, now: float) -> None:
        self.key = key
        self.concurrent = 0
        self._requests = Bucket(key.requests_per_minute, now) if key.requests_per_minute else None
        self.tokens = Bucket(key.tokens_per_minute, now) if key.tokens_per_minute else None

    def enter(self, task: str | None, now: float) -> None:
        """Begin a request; Refusal(403 or 429) if the key may not."""
        key = self.key
        if key.tasks and task not in key.tasks:
            raise Refusal(403, "This key may not use that model.", "model_not_allowed")
        if key.max_concurrent and self.concurrent >= key.max_concurrent:
            raise _too_many(f"{key.max_concurrent} requests at a time", 1.0)
        wait = self._requests.wait_seconds(1, now) if self._requests else 0.0
        if wait:
            raise _too_many(f"{key.requests_per_minute} requests per minute", wait)
        wait = self.tokens.wait_seconds(1, now) if self.tokens else 0.0
        if wait:
            raise _too_many(f"{key.tokens_per_minute} tokens per minute", wait)
        if self._requests:
            self._requests.take(1)
        self.concurrent += 1

    def leave(self, tokens: int) -> None:
        """End a request that used so many tokens."""
        self.concurrent -= 1
        if self.tokens:
            self.tokens.take(tokens)


class Keyring:
    """All keys; none means that everybody may ask."""

    def __init__(self, keys: Sequence[Key], now: Callable[[], float]) -> None:
        self._now = now
        self._holders = {key.sha256: Holder(key, now()) for key in keys}

    @property
    def required(self) -> bool:
        """Whether a key must be shown."""
        return bool(self._holders)

    def holder(self, headers: Mapping[bytes, bytes]) -> Holder | None:
        """Whose key it is; None if no key is required; Refusal(401) for a wrong one."""
        if not self._holders:
            return None
        shown = headers.get(b"authorization", b"")
        scheme, _, key = shown.partition(b" ")
        if scheme.lower() != b"bearer":
            key = headers.get(b"api-key", b"")
        if not key:
            raise Refusal(401, "No API key was given: send `Authorization: Bearer KEY`.")
        holder = self._holders.get(hashlib.sha256(key.strip()).hexdigest())
        if holder is None:
            raise Refusal(401, "The API key is not valid.", "invalid_api_key")
        return holder

    def enter(self, holder: Holder, task: str | None) -> None:
        """Begin a request with that key."""
        holder.enter(task, self._now())


def _too_many(limit: str, wait_seconds: float) -> Refusal:
    return Refusal(
        429,
        f"Rate limit reached: {limit}.",
        "rate_limit_exceeded",
        retry_after_seconds=math.ceil(wait_seconds),
    )

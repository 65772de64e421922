"""Client keys: who asks, what they may use, and how much of it.

- Keys are known by their SHA-256 only.
- Once a key exists, or ever existed, one is required: revoking the last one opens no door.
- Limits hold for the gateway, whatever the number of its workers; a piece of feedback counts as a
  request.
- Where no key is needed the gateway answers this machine alone (`local.py`).
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence

from everlearn.config import Key
from everlearn.keys import PREFIX
from gateway.counters import IN_FLIGHT, REQUESTS, TOKENS, Cells, Counters, LocalCounters
from gateway.http.wire import Refusal
from gateway.local import Local

_OURS = PREFIX.encode()


class Bucket:
    """What was spent of a minute and is paid back over a minute; it may be overdrawn.

    Its two cells are the amount spent and the time at which it was that much.
    """

    __slots__ = ("_cells", "_first", "_per_minute")

    def __init__(self, per_minute: int, cells: Cells, first: int = 0) -> None:
        self._per_minute = per_minute
        self._cells = cells
        self._first = first

    def wait_seconds(self, amount: float, now: float) -> float:
        """Until `amount` can be taken; 0 means now."""
        left = self._per_minute - self._spent(now)
        return max(0.0, (amount - left) * 60 / self._per_minute)

    def take(self, amount: float, now: float) -> None:
        """Spend."""
        self._cells[self._first] = self._spent(now) + amount

    def _spent(self, now: float) -> float:
        cells, first = self._cells, self._first
        # The clocks of two workers may be a loop's turn apart.
        passed = now - cells[first + 1]
        if passed > 0:
            cells[first] = max(0.0, cells[first] - passed * self._per_minute / 60)
            cells[first + 1] = now
        return cells[first]


class Holder:
    """One key and what is left of its limits."""

    def __init__(self, key: Key, now: Callable[[], float], counters: Counters) -> None:
        self.key = key
        self._now = now
        self._lock = counters.lock
        self._limited = bool(key.requests_per_minute or key.tokens_per_minute or key.max_concurrent)
        self._cells = counters.cells(key.sha256) if self._limited else []
        self._ours = IN_FLIGHT + counters.worker
        self._requests = self._bucket(key.requests_per_minute, REQUESTS)
        self._tokens = self._bucket(key.tokens_per_minute, TOKENS)

    def enter(self, task: str | None) -> None:
        """Begin a request; Refusal(403 or 429) if the key may not."""
        key = self.key
        if key.role == "viewer":
            raise Refusal(403, "This key looks at the console only.", "model_not_allowed")
        if key.tasks and task not in key.tasks:
            raise Refusal(403, "This key may not use that model.", "model_not_allowed")
        if self._limited:
            with self._lock:
                self._count(self._now())

    def speak(self, pieces: int) -> None:
        """Give so many pieces of feedback; Refusal(429) if the key may not now. An array may
        overdraw the minute, which is then paid back first."""
        if self._limited:
            with self._lock:
                now = self._now()
                self._count(now)
                self._cells[self._ours] -= 1
                if self._requests:
                    self._requests.take(pieces - 1, now)

    def leave(self, tokens: int) -> None:
        """End a request that used so many tokens."""
        if not self._limited:
            return
        with self._lock:
            self._cells[self._ours] -= 1
            if self._tokens:
                self._tokens.take(tokens, self._now())

    def _count(self, now: float) -> None:
        key = self.key
        if key.max_concurrent and sum(self._cells[IN_FLIGHT:]) >= key.max_concurrent:
            raise _too_many(f"{key.max_concurrent} requests at a time", 1.0)
        wait = self._requests.wait_seconds(1, now) if self._requests else 0.0
        if wait:
            raise _too_many(f"{key.requests_per_minute} requests per minute", wait)
        wait = self._tokens.wait_seconds(1, now) if self._tokens else 0.0
        if wait:
            raise _too_many(f"{key.tokens_per_minute} tokens per minute", wait)
        if self._requests:
            self._requests.take(1, now)
        self._cells[self._ours] += 1

    def _bucket(self, per_minute: int, first: int) -> Bucket | None:
        return Bucket(per_minute, self._cells, first) if per_minute else None


class Keyring:
    """All keys: those of the config, and those of the state store once they have been read."""

    def __init__(
        self,
        keys: Sequence[Key],
        now: Callable[[], float],
        *,
        require: bool | None = None,
        counters: Counters | None = None,
        read: bool = True,
        local: Local | None = None,
    ) -> None:
        """`require` is the setting `require_key`; `read` is False where a store is still to be
        read: until then nobody knows which keys there are, and whether one is needed. `local`
        checks what comes without a key; without it anybody may."""
        self._configured = tuple(keys)
        self._now = now
        self._require = require
        self._counters = counters or LocalCounters()
        self._read = read
        self._local = local
        self._ever = False
        """A key exists or once existed."""
        self._holders: dict[str, Holder] = {}
        self.generation = 0
        """Another one whenever anybody might be let in, or kept out, who was not before."""
        self.error: str | None = None
        """Why the keys in force may not be those of the store."""
        self._take(())

    @property
    def required(self) -> bool:
        """Whether a key must be shown."""
        if self._require is not None:
            return self._require
        return self._ever or not self._read

    @property
    def ready(self) -> bool:
        """Whether anybody can be let in."""
        return self._read or bool(self._holders) or self._require is False

    def take(
        self, stored: Sequence[Key], *, ever: bool, error: str | None = None, all_known: bool = True
    ) -> None:
        """What the state store holds now; `ever` says whether it ever held a key, `all_known`
        whether it holds no others. Keys that stay keep what is left of their limits."""
        self._read, self.error = all_known, error
        self._take(stored, ever)

    def holder(self, headers: Mapping[bytes, bytes]) -> Holder | None:
        """Whose key it is; None if no key is required; Refusal(401) for a wrong one, Refusal(503)
        for one that may be right but cannot be looked up."""
        if self._open:
            self._check_local(headers)
            return None
        key = _shown(headers)
        holder = self._holders.get(hashlib.sha256(key).hexdigest()) if key else None
        if holder is not None:
            return holder
        # A key of ours that is not valid must not travel on as if it were the upstream's.
        if not self.required and not key.startswith(_OURS):
            self._check_local(headers)
            return None
        if not self._read and (key or not self._holders):
            message = "The keys cannot be looked up yet."
            raise Refusal(503, message, "keys_unavailable", retry_after_seconds=1)
        if not key:
            raise Refusal(401, "No API key was given: send `Authorization: Bearer KEY`.")
        raise Refusal(401, "The API key is not valid.", "invalid_api_key")

    def enter(self, holder: Holder, task: str | None) -> None:
        """Begin a request with that key."""
        holder.enter(task)

    def _check_local(self, headers: Mapping[bytes, bytes]) -> None:
        if self._local is not None:
            self._local.check(headers)

    def _take(self, stored: Sequence[Key], ever: bool = False) -> None:
        # Once seen it is remembered, so that a store that was wiped opens no door either.
        self._ever = self._ever or ever or bool(self._configured)
        self.generation += 1
        known = self._holders
        keys = {key.sha256: key for key in (*stored, *self._configured)}
        self._holders = {
            digest: known[digest]
            if digest in known and known[digest].key == key
            else Holder(key, self._now, self._counters)
            for digest, key in keys.items()
        }
        self._open = not self._ever and not self.required


def _shown(headers: Mapping[bytes, bytes]) -> bytes:
    scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() != b"bearer":
        key = headers.get(b"api-key", b"")
    return key.strip()


def _too_many(limit: str, wait_seconds: float) -> Refusal:
    return Refusal(
        429,
        f"Rate limit reached: {limit}.",
        "rate_limit_exceeded",
        retry_after_seconds=math.ceil(wait_seconds),
    )

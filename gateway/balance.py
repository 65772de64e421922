"""Which replica is asked next, and when one is left alone. Pure: time is a parameter.

- The replica with the fewest requests outstanding is asked; equals take turns.
- A replica that fails `FAILURES_TO_OPEN` times in a row is left alone (its breaker is open) for a
  pause that doubles with every further failure, as long as another one is not; then one request
  may try it.
- Where none is left all are asked as if none had failed (Envoy's panic rule): a breaker chooses
  between servers and never refuses what one of them might answer.
- Retries are limited to a share of the requests, so that a sick upstream is not asked twice as
  much as a healthy one.
"""

import itertools
from collections.abc import Iterable, Sequence

FAILURES_TO_OPEN = 3
PAUSE_SECONDS = 1.0
MAX_PAUSE_SECONDS = 30.0
RETRY_SHARE = 0.2
RETRY_BURST = 10.0

_turns = itertools.count(1)


class Breaker:
    """Remembers how a replica did."""

    __slots__ = ("failures", "last_turn", "open_until", "outstanding")

    def __init__(self) -> None:
        self.outstanding = 0
        self.failures = 0
        """In a row."""
        self.open_until = 0.0
        self.last_turn = 0

    def enter(self) -> None:
        """A request is sent."""
        self.outstanding += 1
        self.last_turn = next(_turns)

    @property
    def is_open(self) -> bool:
        """It failed too often in a row."""
        return self.failures >= FAILURES_TO_OPEN

    def allows(self, now: float) -> bool:
        """Whether it is as good as any; after the pause only one request at a time may try."""
        return not self.is_open or (now >= self.open_until and self.outstanding == 0)

    def failed(self, now: float) -> None:
        """A request gave no answer, or one that says the server cannot work."""
        self.failures += 1
        if self.failures >= FAILURES_TO_OPEN:
            doublings = min(self.failures - FAILURES_TO_OPEN, 10)
            self.open_until = now + min(PAUSE_SECONDS * 2**doublings, MAX_PAUSE_SECONDS)

    def succeeded(self) -> None:
        """The replica works."""
        self.failures = 0


def choose(breakers: Sequence[Breaker], tried: Iterable[int], now: float) -> int:
    """Index of the replica to ask: one not left alone, of those one not yet tried."""
    if len(breakers) == 1:
        return 0
    seen = set(tried)
    best: tuple[bool, bool, int, int] | None = None
    chosen = 0
    for index, breaker in enumerate(breakers):
        alone = not breaker.allows(now)
        rank = (alone, index in seen, breaker.outstanding, breaker.last_turn)
        if best is None or rank < best:
            best, chosen = rank, index
    return chosen


class RetryBudget:
    """Every request earns a share of a retry; every retry spends one."""

    def __init__(self) -> None:
        self._tokens = RETRY_BURST

    def earn(self) -> None:
        """A request was sent for the first time."""
        if self._tokens < RETRY_BURST:
            self._tokens += RETRY_SHARE

    def spend(self) -> bool:
        """Whether one more retry may be made."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


def backoff_seconds(attempt: int, jitter: float) -> float:
    """Pause before retry number `attempt` (from 0); `jitter` is 0 to 1."""
    return float(min(0.05 * 2**attempt, 1.0) * (0.5 + jitter / 2))

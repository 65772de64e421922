"""Which of several controllers leads: a lease in the state store, renewed while its holder lives.

- No two clocks are compared. Who waits takes the lease over once its revision has stood still for
  its whole length by the waiter's own monotonic clock; who holds it stops believing so after the
  same length, counted from before the last renewal was sent.
- A holder that was stopped and goes on does no harm: whatever it still writes is written over a
  revision (the traffic document) or at a position (`release_units`) that has moved on, and is
  refused.
- The holder's name is its place, so a controller that is started again there leads at once: the
  lock of its data folder has shown that the one before is gone.
"""

import logging
import socket
import time
from collections.abc import Callable

from everlearn.config import Service
from everlearn.errors import StateError
from everlearn.state import State, StateConflict

log = logging.getLogger(__name__)

KIND, KEY = "lease", "releases"
SECONDS = 15.0
"""How long after the leader's death another one waits."""


class Lease:
    """One controller's part in the election."""

    def __init__(
        self,
        state: State,
        holder: str,
        *,
        seconds: float = SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state, self._holder, self._seconds = state, holder, seconds
        self._monotonic = monotonic
        self._until = 0.0
        self._seen = (0, 0.0)
        """The revision of somebody else's lease, and since when it has stood there."""
        self.leader: str | None = None
        """Who held it at the last look."""

    @property
    def held(self) -> bool:
        """Whether this controller may decide."""
        return self._monotonic() < self._until

    def renew(self) -> bool:
        """Keep the lease, or take one that nobody holds; False while somebody else does."""
        now = self._monotonic()
        found = self._state.get(KIND, KEY)
        revision = 0
        if found is not None:
            (document, revision), holder = found, found[0]["holder"]
            self.leader = holder
            if holder not in (None, self._holder):
                if revision != self._seen[0]:
                    self._seen = (revision, now)
                if now - self._seen[1] < document["seconds"]:
                    self._until = 0.0
                    return False
        own = {"holder": self._holder, "seconds": self._seconds}
        try:
            self._state.put(KIND, KEY, own, revision)
        except StateConflict:
            self._until = 0.0
            return False
        if self.leader != self._holder:
            log.info("this controller leads (before: %s)", self.leader)
        self._until, self.leader = now + self._seconds, self._holder
        return True

    def try_renew(self) -> bool:
        """The same where the state store may be away: then it is kept until it runs out."""
        try:
            return self.renew()
        except StateError as error:
            log.error("the lease is not renewed: %s", error)
            return self.held

    def give_up(self) -> None:
        """Let the next one lead at once."""
        if not self.held:
            return
        self._until = 0.0
        try:
            found = self._state.get(KIND, KEY)
            if found is not None and found[0]["holder"] == self._holder:
                self._state.put(KIND, KEY, {"holder": None, "seconds": self._seconds}, found[1])
        except (StateError, StateConflict) as error:
            log.warning("the lease runs out by itself: %s", error)


def holder(service: Service) -> str:
    """Where a controller runs: one per data folder, as its lock says."""
    return f"{socket.gethostname()}:{service.data_path}"

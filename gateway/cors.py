"""Which web pages may read the gateway's answers: the headers that browsers ask for (CORS).

They let a page of another address read what a browser fetched for it; they let nobody in. A key is
not sent by a browser of itself, and no cookie is used, so that `*` gives a page no more than anyone
has who reaches the port. What the upstream says of origins stays here: the door decides.
"""

import re
from collections.abc import Mapping

from everlearn import config
from gateway.http.heads import Head

EXPOSED = (
    b"x-everlearn-id, x-everlearn-task, x-everlearn-arm, x-everlearn-version, x-request-id, "
    b"retry-after"
)
METHODS = b"GET, POST, DELETE, OPTIONS"
_NAMES = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~, -]{1,1024}")


class Cors:
    """Answers browsers by the config."""

    def __init__(self, settings: config.Cors) -> None:
        self._any = "*" in settings.allowed_origins
        self._origins = frozenset(origin.encode() for origin in settings.allowed_origins)
        self._max_age = settings.max_age_seconds

    def lines(self, headers: Mapping[bytes, bytes]) -> bytes:
        """Header lines of every answer to a request with these headers."""
        origin = headers.get(b"origin")
        if origin is None or not self._origins:
            return b""
        allowed = self._allowed(origin)
        if allowed is None:
            return b"vary: origin\r\n"
        lines = b"access-control-allow-origin: %b\r\naccess-control-expose-headers: %b\r\n"
        return lines % (allowed, EXPOSED) + (b"" if self._any else b"vary: origin\r\n")

    def preflight(self, head: Head) -> tuple[int, bytes] | None:
        """Status and header lines for a browser that asks whether it may ask; None: no such."""
        known = head.known
        if head.method != b"OPTIONS" or b"access-control-request-method" not in known:
            return None
        if self._allowed(known.get(b"origin", b"")) is None:
            return 403, b""
        lines = b"access-control-allow-methods: %b\r\naccess-control-max-age: %d\r\n"
        lines %= (METHODS, self._max_age)
        names = known.get(b"access-control-request-headers", b"")
        if _NAMES.fullmatch(names):
            lines += b"access-control-allow-headers: " + names + b"\r\n"
        return 200, lines

    def _allowed(self, origin: bytes) -> bytes | None:
        if self._any:
            return b"*"
        return origin if origin in self._origins else None

"""A gateway that asks for no key is a program on one's own machine: it answers this machine alone.

It listens on loopback, and a web page must not get in by the browser: neither under a host name of
its own that has come to point here (DNS rebinding), nor as another site (its Origin).
"""

import re
from collections.abc import Collection, Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

from gateway.http.wire import Refusal

MAX_REMEMBERED = 64
_AUTHORITY = re.compile(rb"(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(?::[0-9]*)?")


class Local:
    """Refuses what a page of another site sends."""

    def __init__(self, allowed_origins: Collection[str] = ()) -> None:
        """`allowed_origins`: sites that the config names; `*` names none."""
        self._allowed = frozenset(origin.encode() for origin in allowed_origins)
        self._known: set[bytes] = set()
        """Hosts found fine, so that a request costs one look."""

    def check(self, headers: Mapping[bytes, bytes]) -> None:
        """Refusal(403) for a host or an origin that is not this machine."""
        host = headers.get(b"host")
        if host is not None and host not in self._known:
            if not _here(host):
                message = (
                    "Without keys this gateway answers as localhost or 127.0.0.1 only, not as "
                    f"{host.decode('latin-1')[:100]!r}; make a key with `everlearn keys create`."
                )
                raise Refusal(403, message, "host_not_allowed")
            if len(self._known) < MAX_REMEMBERED:
                self._known.add(host)
        origin = headers.get(b"origin")
        if origin is None or origin in self._allowed:
            return
        if not _here(urlsplit(origin).netloc):
            message = (
                "Without keys this gateway answers pages of this machine only, not of "
                f"{origin.decode('latin-1')[:100]!r}; name it in gateway.cors.allowed_origins."
            )
            raise Refusal(403, message, "origin_not_allowed")


def _here(authority: bytes) -> bool:
    """Whether HOST or HOST:PORT is this machine by name or address."""
    found = _AUTHORITY.fullmatch(authority.lower())
    if found is None:
        return False
    text = found[1].decode("latin-1").strip("[]")
    if text == "localhost" or text.endswith(".localhost"):
        return True
    try:
        return ip_address(text).is_loopback
    except ValueError:
        return False

"""Heads of messages that have been seen before: parsed once, found again by their bytes.

A client sends the same head with every request, and an upstream with every answer; only the length
of the body differs. The parser checks a head the first time, and a lookup replaces it from then on
(taking in a request costs 2.4 us instead of 6.1). Only a message with a length that came in one
segment is looked up.
"""

import time
from typing import Any, Generic, TypeVar

from gateway.http.wire import Refusal

MAX_HEADS = 1024
MAX_HEAD_BYTES = 4096
"""Longer heads are parsed every time, so that the memory stays bounded (4 MB)."""
MAX_DIGITS = 9
_NAMES = (b"ontent-Length: ", b"ontent-length: ")
_NAME_BYTES = len(_NAMES[0])

Known = TypeVar("Known")


class Head:
    """The head of a request, parsed; shared by all requests that carry the same."""

    __slots__ = (
        "headers", "http10", "keep_alive", "kept", "known", "lines", "method", "path", "query",
    )  # fmt: skip

    def __init__(self) -> None:
        self.method = b""
        self.path = b""
        self.query = b""
        self.headers: list[tuple[bytes, bytes]] = []
        """Names in lower case; without content-length."""
        self.known: dict[bytes, bytes] = {}
        """The headers by name; of one that stands there twice the last."""
        self.lines = b""
        """Header lines that go with every answer to it."""
        self.http10 = False
        self.keep_alive = True
        self.kept: dict[Any, Any] = {}
        """What the handler has worked out of this head."""


class Request:
    """One request, whole."""

    __slots__ = ("body", "head", "keep_alive", "received_at", "refusal", "started")

    def __init__(self, head: Head) -> None:
        self.received_at = time.time()
        self.started = time.perf_counter()
        self.head = head
        self.body = b""
        self.keep_alive = head.keep_alive
        self.refusal: Refusal | None = None

    @property
    def method(self) -> bytes:
        """In capitals."""
        return self.head.method

    @property
    def path(self) -> bytes:
        """Without the query."""
        return self.head.path

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """As sent, names in lower case, without content-length."""
        return self.head.headers

    def elapsed_ms(self) -> float:
        """Milliseconds since the first byte."""
        return (time.perf_counter() - self.started) * 1000


def split(data: bytes) -> tuple[bytes, bytes] | None:
    """A message whose body is all of the rest of `data`: its head without the digits of the length,
    and its body. None for any other."""
    head, _, body = data.partition(b"\r\n\r\n")
    # From the end: `find` first makes a table, which costs more than the look at so few bytes.
    at = head.rfind(_NAMES[0])
    if at < 0:
        at = head.rfind(_NAMES[1])
    if at < 0 or len(head) > MAX_HEAD_BYTES:
        return None
    at += _NAME_BYTES
    stop = head.find(b"\r", at)
    digits, rest = (head[at:stop], head[stop:]) if stop >= 0 else (head[at:], b"")
    if len(digits) > MAX_DIGITS or not digits.isdigit() or int(digits) != len(body):
        return None
    return head[:at] + rest, body


class Heads(Generic[Known]):
    """What the parser made of the heads seen last."""

    def __init__(self) -> None:
        self._known: dict[bytes, Known] = {}

    def find(self, data: bytes) -> tuple[Known, bytes] | None:
        """The head and the body of a whole message; None if it must be parsed."""
        cut = split(data)
        if cut is None:
            return None
        known = self._known.get(cut[0])
        return None if known is None else (known, cut[1])

    def learn(self, data: bytes, length: int, head: Known) -> None:
        """Remember the head of `data`, a message of one segment that the parser took whole, with a
        body of `length` bytes."""
        cut = split(data)
        if cut is None or len(cut[1]) != length:
            return
        key = cut[0]
        at = key.rfind(_NAMES[0])
        at = key.rfind(_NAMES[1]) if at < 0 else at
        if key[at - 3 : at].lower() != b"\r\nc":
            return
        if len(self._known) >= MAX_HEADS:
            self._known.clear()
        self._known[key] = head

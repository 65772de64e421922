"""Identifiers: sortable by time, unique over gateways and restarts."""

import os
import time

_ALPHABET = b"0123456789abcdefghjkmnpqrstvwxyz"
_LETTERS = bytes(_ALPHABET[byte % 32] for byte in range(256))
_RANDOM_LETTERS = 13
_BATCH = 256

_random: list[str] = []
"""Letters for the next ids: the system's generator is asked once for many of them."""
_now = ("", 0)
"""The first letters of an id, and the milliseconds that they stand for."""


def new_id(prefix: str) -> str:
    """`prefix_`, 9 characters of milliseconds, 13 random ones (65 bits): sorts by creation."""
    try:
        letters = _random.pop()
    except IndexError:
        letters = _refill()
    milliseconds = int(time.time() * 1000)
    start = _now[0] if milliseconds == _now[1] else _time(milliseconds)
    return f"{prefix}_{start}{letters}"


def _refill() -> str:
    letters = os.urandom(_RANDOM_LETTERS * _BATCH).translate(_LETTERS).decode()
    starts = range(_RANDOM_LETTERS, len(letters), _RANDOM_LETTERS)
    _random.extend(letters[start : start + _RANDOM_LETTERS] for start in starts)
    return letters[:_RANDOM_LETTERS]


def _time(milliseconds: int) -> str:
    global _now
    digits = (milliseconds >> shift & 31 for shift in range(40, -1, -5))
    _now = bytes(_ALPHABET[digit] for digit in digits).decode(), milliseconds
    return _now[0]


# A forked process must not give out its parent's ids.
os.register_at_fork(after_in_child=_random.clear)

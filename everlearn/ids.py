"""Identifiers: sortable by time, unique over gateways and restarts.

A completion's ends with the mark of its task, so that a gateway knows by the id alone, without
looking anything up, whether a key that is limited to tasks may speak of it. The mark keeps no
secret and needs none: it is part of the name by which feedback is joined, so that whoever puts
another in its place names a completion that there is not.
"""

import hashlib
import os
import re
import time
from collections.abc import Sequence
from functools import lru_cache

_ALPHABET = b"0123456789abcdefghjkmnpqrstvwxyz"
_LETTERS = bytes(_ALPHABET[byte % 32] for byte in range(256))
_RANDOM_LETTERS = 13
_BATCH = 256
_MARK_LETTERS = 5
_OF_A_TASK = re.compile(rf"cmpl_[0-9a-z]{{22}}([0-9a-z]{{{_MARK_LETTERS}}})")

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


def completion_id(task: str | None) -> str:
    """The id of a completion of a task, or of none."""
    return marked(new_id("cmpl"), task)


def marked(unmarked: str, task: str | None) -> str:
    """A completion's id that was made before it was known what task it is of."""
    return unmarked + _mark(task)


def may_be_of(name: str, tasks: Sequence[str]) -> bool:
    """False if the id is marked as that of a completion of no task among these. One without a mark
    (an upstream's, one made before there were marks) may be of any."""
    found = _OF_A_TASK.fullmatch(name)
    return found is None or any(found[1] == _mark(task) for task in tasks)


@lru_cache(4096)
def _mark(task: str | None) -> str:
    """25 bits. Two tasks that share them are told apart in the lake alone."""
    digest = hashlib.sha256(b"" if task is None else task.encode()).digest()
    return digest[:_MARK_LETTERS].translate(_LETTERS).decode()


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

"""Identifiers: sortable by time, unique over gateways and restarts."""

import os
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]


def new_id(prefix: str) -> str:
    """`prefix_`, 9 characters of milliseconds, 13 random ones (65 bits): sorts by creation."""
    number = (int(time.time() * 1000) << 65) | (int.from_bytes(os.urandom(9), "big") >> 7)
    pairs = _PAIRS
    # Written out: every captured request pays for it.
    return (
        f"{prefix}_{pairs[number >> 100]}{pairs[number >> 90 & 1023]}"
        f"{pairs[number >> 80 & 1023]}{pairs[number >> 70 & 1023]}{pairs[number >> 60 & 1023]}"
        f"{pairs[number >> 50 & 1023]}{pairs[number >> 40 & 1023]}{pairs[number >> 30 & 1023]}"
        f"{pairs[number >> 20 & 1023]}{pairs[number >> 10 & 1023]}{pairs[number & 1023]}"
    )

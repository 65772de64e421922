"""Identifiers: sortable by time, unique over gateways and restarts."""

import secrets
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def new_id(prefix: str) -> str:
    """`prefix_`, 9 characters of milliseconds, 13 random ones (65 bits): sorts by creation."""
    number = (int(time.time() * 1000) << 65) | secrets.randbits(65)
    characters = []
    for _ in range(22):
        characters.append(_ALPHABET[number & 31])
        number >>= 5
    return f"{prefix}_{''.join(reversed(characters))}"

"""What makes two prompts the same, and which side of the held-out border a unit stands on."""

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

Side = Literal["train", "select", "gate"]
"""Learned from; chosen by (which candidate, which step); examined by. None sees another's rows."""
_SPACE = re.compile(r"\s+")


def message_text(content: Any) -> str:
    """The text of a message's content: a string, or the text parts of a list of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        parts = (part.get("text", "") for part in content if isinstance(part, Mapping))
        return "".join(part for part in parts if isinstance(part, str))
    return ""


def last_user_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """What the user asked last, empty if nobody asked."""
    for message in reversed(messages):
        if message.get("role") == "user":
            return message_text(message.get("content"))
    return ""


def prompt_key(messages: Sequence[Mapping[str, Any]]) -> str:
    """Hash of the conversation with case and white space folded: equal keys are the same prompt."""
    parts = [
        f"{message.get('role', '')}\x1f"
        + _SPACE.sub(" ", message_text(message.get("content"))).strip().casefold()
        for message in messages
    ]
    return hashlib.sha256("\x1e".join(parts).encode()).hexdigest()[:32]


def is_heldout(unit: str, percent: float, salt: str) -> bool:
    """Whether a unit is held out: a salted hash of the unit alone, so the answer never changes.

    `salt` is `everlearn.installation.heldout_salt`: nobody outside can choose a unit by its side.
    """
    return side_of(unit, heldout_percent=percent, salt=salt) != "train"


def side_of(unit: str, *, heldout_percent: float, salt: str) -> Side:
    """The side of a unit, for ever; `select` and `gate` each get half of the held-out units.

    A larger share moves units from `train` to the held-out sides, never between those two.
    """
    digest = hmac.digest(salt.encode(), unit.encode(errors="surrogatepass"), "sha256")
    if int.from_bytes(digest[:8], "big") / 2**64 >= heldout_percent / 100:
        return "train"
    return "gate" if digest[8] & 1 else "select"

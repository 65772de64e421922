"""What makes two prompts the same, and which side of the held-out border a unit stands on."""

import hashlib
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from unicodedata import normalize

Side = Literal["train", "select", "gate"]
"""Learned from; chosen by (which candidate, which step); examined by. None sees another's rows."""
_SPACE = re.compile(r"\s+")


def message_text(content: Any) -> str:
    """The text of a message's content: a string, or the text parts of a list of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        return "".join(filter(None, map(_part_text, content)))
    return ""


def last_user_text(messages: Any) -> str:
    """What the user asked last, empty if nobody asked."""
    for message in reversed(messages) if isinstance(messages, Sequence) else ():
        if isinstance(message, Mapping) and message.get("role") == "user":
            return message_text(message.get("content"))
    return ""


def conversation(messages: Any) -> list[Mapping[str, Any]]:
    """The messages for people to read: what is no message, as what somebody said."""
    rows = messages if isinstance(messages, list) else [messages]
    return [
        row if isinstance(row, Mapping) else {"role": "user", "content": row}
        for row in rows
        if row is not None
    ]


def prompt_key(messages: Any, tools: Any = None) -> str:
    """Hash of everything that the model was shown: equal keys are the same prompt.

    Case and white space of plain text are folded. Pictures, sound, token ids, calls, their results
    and `tools` count as they are; of calls, the order of their ids counts and not the ids. Takes
    whatever stands in the lake: what is no conversation is a prompt as well.
    """
    rows = messages if isinstance(messages, Sequence) and not isinstance(messages, str) else None
    names: dict[Any, str] = {}
    parts = [_message_key(row, names) for row in ([messages] if rows is None else rows)]
    if tools:
        parts.append(f"\x1ftools\x1f{_exact(tools)}")
    content = "\x1e".join(parts).encode(errors="surrogatepass")
    return hashlib.sha256(content).hexdigest()[:32]


_UNSEEN = frozenset({"role", "content", "id", "status", "cache_control", "parsed"})
"""Keys of a message that are told apart elsewhere or that no model is shown."""
_CALL_IDS = frozenset({"id", "call_id", "tool_call_id"})
_TEXT_PARTS = ("text", "input_text", "output_text")


def _message_key(message: Any, names: dict[Any, str]) -> str:
    if not isinstance(message, Mapping):
        return f"\x1f{_exact(message)}"
    segments = _segments(message.get("content"))
    text = segments.pop(0) if segments and segments[0][:1] != "\x1f" else ""
    more = {key: value for key, value in message.items() if key not in _UNSEEN and value}
    if more:
        segments.append(f"\x1fmore {_exact(_renamed(more, names))}")
    return f"{_folded(str(message.get('role', '')))}\x1f{text}{''.join(segments)}"


def _segments(content: Any) -> list[str]:
    """Runs of text, folded, and between them what is no text, exactly."""
    if content is None or isinstance(content, str):
        return [_folded(content or "")]
    if not isinstance(content, Sequence) or not any(isinstance(p, str | Mapping) for p in content):
        return [f"\x1f{_exact(content)}"] if content else []
    found: list[str] = []
    run: list[str] = []
    for part in content:
        text = _part_text(part)
        if text is not None:
            run.append(text)
            continue
        found += [_folded("".join(run))] if run else []
        found.append(f"\x1f{_exact(part)}")
        run = []
    return [*found, *([_folded("".join(run))] if run else [])]


def _part_text(part: Any) -> str | None:
    if isinstance(part, Mapping):
        kind = part.get("type")
        part = part.get("text") if kind is None or kind in _TEXT_PARTS else None
    return part if isinstance(part, str) else None


def _folded(text: str) -> str:
    """Without the separators as well: they are white space. A letter with its accent is the same in
    one character (a web page) or two (macOS)."""
    whole = text if text.isascii() else normalize("NFC", text)
    return _SPACE.sub(" ", whole).strip().casefold()


def _renamed(value: Any, names: dict[Any, str], key: str = "") -> Any:
    """Ids of calls by the order in which they first stand; what no model is shown left out."""
    if key in _CALL_IDS and isinstance(value, str):
        return names.setdefault(value, f"#{len(names)}")
    if isinstance(value, Mapping):
        kept = {
            name: item for name, item in value.items() if name not in ("cache_control", "parsed")
        }
        return {name: _renamed(item, names, name) for name, item in kept.items()}
    if isinstance(value, list | tuple):
        return [_renamed(item, names) for item in value]
    if key == "arguments" and isinstance(value, str):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _exact(value: Any) -> str:
    """Hash of a JSON value, whatever the order of its keys."""
    content = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()


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

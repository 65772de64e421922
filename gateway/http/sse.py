"""The texts in a body of server-sent events, across the events that they are cut into."""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Spans = Callable[[str], list[tuple[int, int]]]

PLACE = ("item_id", "output_index", "content_index", "summary_index")
"""Fields of an event that say which text its piece belongs to."""
NOT_TEXT = frozenset(
    {
        "id", "object", "model", "type", "role", "finish_reason", "stop_reason", "status",
        "system_fingerprint", "service_tier", "item_id", "obfuscation",
    }
)  # fmt: skip
"""Fields that repeat from event to event and are no text to be joined."""

_LINE = re.compile(r"([^\r\n]*)(\r\n|\n|\r|\Z)")
_DATA = re.compile(r"(?:\A|[\r\n])data:")


@dataclass
class _Event:
    """One event's data."""

    lines: list[int]
    """Where it stands."""
    content: list[Any]
    """What it is: one item."""
    changed: bool = False


@dataclass
class _Piece:
    """One string in one event."""

    event: _Event
    within: Any
    key: Any

    @property
    def text(self) -> str:
        text: str = self.within[self.key]
        return text


class Events:
    """A body of server-sent events that can be changed and written again."""

    def __init__(self, text: str, instead: str) -> None:
        self._instead = instead
        self._lines = [list(line.groups()) for line in _LINE.finditer(text) if line[0]]
        self._events: list[_Event] = []
        block: list[int] = []
        for number, (line, _) in enumerate(self._lines):
            if line.startswith("data:"):
                block.append(number)
            elif not line and block:
                self._add(block)
                block = []
        if block:
            self._add(block)

    @classmethod
    def read(cls, text: str, instead: str) -> "Events | None":
        """The events of a body, None if it is none of events; `instead` is what stands where
        something is masked, as does every event that cannot be read."""
        text = text.removeprefix("\ufeff")
        if text.lstrip()[:1] in ("{", "[") or not _DATA.search(text):
            return None
        return cls(text, instead)

    def mask(self, spans: Spans) -> bool:
        """Mask what `spans` finds in the texts as they are when joined; whether it found any."""
        pieces: defaultdict[Any, list[_Piece]] = defaultdict(list)
        for event in self._events:
            try:
                for path, within, key in _strings(event.content, ()):
                    pieces[path].append(_Piece(event, within, key))
            except RecursionError:
                event.content, event.changed = [self._instead], True
        found = [_mask(joined, spans, self._instead) for joined in pieces.values()]
        return any(found)

    def change(self, how: Callable[[Any], bool]) -> None:
        """Change every event by a function that says whether it changed it."""
        for event in self._events:
            event.changed = how(event.content) or event.changed

    def write(self) -> str:
        """The body; events that nobody changed are as they were."""
        for event in self._events:
            if event.changed:
                first, *others = event.lines
                self._lines[first][0] = f"data: {json.dumps(event.content[0])}"
                for number in others:
                    self._lines[number] = ["", ""]
        return "".join(line + end for line, end in self._lines)

    def _add(self, lines: list[int]) -> None:
        data = "\n".join(self._lines[number][0][5:].removeprefix(" ") for number in lines)
        if data.strip() == "[DONE]":
            return
        try:
            event = _Event(lines, [json.loads(data)])
        except (ValueError, RecursionError):
            # Half an event, as of a stream that was cut, or none: it cannot be searched.
            event = _Event(lines, [self._instead], changed=True)
        self._events.append(event)


def _strings(node: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any, Any]]:
    """Every string that may be a piece of a text: of which text, and where it stands."""
    if isinstance(node, dict):
        path = (*path, *(str(node.get(name)) for name in PLACE))
        children = [(name, name, value) for name, value in node.items()]
    elif isinstance(node, list):
        children = [
            (str(value.get("index", at) if isinstance(value, dict) else at), at, value)
            for at, value in enumerate(node)
        ]
    else:
        return
    for name, key, value in children:
        if isinstance(value, str):
            if name not in NOT_TEXT:
                yield (*path, name), node, key
        else:
            yield from _strings(value, (*path, name))


def _mask(pieces: list[_Piece], spans: Spans, instead: str) -> bool:
    """The joined text's matches, cut out of the pieces; `instead` stands where each began."""
    found = spans("".join(piece.text for piece in pieces))
    at = 0
    for piece in pieces if found else ():
        text, begin = piece.text, at
        at += len(text)
        masked, kept = "", begin
        for start, end in found:
            if start < at and end > begin:
                masked += text[kept - begin : max(start, begin) - begin]
                masked += instead if start >= begin else ""
                kept = min(end, at)
        if kept > begin:
            piece.within[piece.key] = masked + text[kept - begin :]
            piece.event.changed = True
    return bool(found)

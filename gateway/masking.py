"""What must not be kept is masked before the first write.

- Patterns are searched in a body as it was sent and again with its JSON escapes undone, level by
  level, so that neither `\\u0040` nor JSON within JSON hides a match. What a match covers is
  replaced in the body as it was sent; every other byte stays.
- The pieces of a streamed text are joined first, so that no match hides in the cut between two.
- What spells a masked text once more, token by token, goes with it.
- What cannot be read as text cannot be searched, and is not kept; nor is what would take more than
  time in proportion to its length: too many matches, escapes within escapes without end, matches
  that each read on to the text's end.
- An identifier with a match is left out: masked ones would join what does not belong together.
"""

import json
import re
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from everlearn import regex
from everlearn.events import Completion, Event, Feedback
from gateway.http.sse import Events

MASKED = "[masked]"
TOKENS = frozenset({"logprobs", "prompt_logprobs", "token_ids", "prompt_token_ids"})
"""Fields whose lists say what a text says."""

_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|[\"\\/bfnrt])"
)
_ESCAPES = re.compile(rf'(?:{_ESCAPE.pattern}[^\\"]*){{1,1000}}')
"""Many at once, because a call for each would take seconds on a body that is made of them."""
_STRING_OR_NUMBER = re.compile(
    r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)', re.DOTALL
)

_HALF = re.compile("[\ud800-\udfff]")

MAX_MATCHES = 10_000
"""Of a pattern in one text: each search may read on to the text's end."""
SEARCH_SECONDS = 0.25
"""Of the processor, for each megabyte of one text, begun or whole: a pattern takes 2 ms."""
MAX_LEVELS = 32
"""Of escapes within escapes."""
_DECODER = json.JSONDecoder(strict=False)

Span = tuple[int, int]


class _Unsearchable(Exception):
    """A text that cannot be searched in bounded time."""


class Masker:
    """Masks by regular expressions."""

    def __init__(
        self, patterns: Sequence[str], seconds: Callable[[], float] = time.thread_time
    ) -> None:
        """`seconds`: the processor's, spent by this thread."""
        self._patterns = [regex.compile(pattern) for pattern in patterns]
        self._seconds = seconds

    def event(self, event: Event) -> Event:
        """The event without what must not be kept."""
        return self._completion(event) if isinstance(event, Completion) else self._feedback(event)

    def head(self, body: bytes, limit_bytes: int) -> bytes:
        """The masked body's beginning. A match is masked whole even if the end cuts it; of a longer
        body only twice the limit is looked at, and matches are taken to be shorter than one."""
        if len(body) <= 2 * limit_bytes:
            return _cut(self._request(body)[0], limit_bytes)
        masked = self._request(_cut(body, 2 * limit_bytes))[0]
        return _cut(masked, max(0, min(limit_bytes, len(masked) - limit_bytes)))

    def text(self, text: str) -> str:
        """A text with every match replaced."""
        return _replaced(text, [(*span, MASKED) for span in self._spans(text)])

    def _completion(self, event: Completion) -> Completion:
        request, matched = self._request(event.request)
        return replace(
            event,
            request=request,
            response=self._answer(event.response, matched),
            error=self._maybe(event.error),
            model_requested=self._maybe(event.model_requested),
            model_served=self._maybe(event.model_served),
            unit=event.unit and (self._identifier(event.unit) or event.completion_id),
            conversation_id=self._identifier(event.conversation_id),
            request_id=self._identifier(event.request_id),
        )

    def _feedback(self, event: Feedback) -> Feedback:
        tags, number = event.tags, event.value_number
        return replace(
            event,
            name=self.text(event.name),
            completion_id=self._identifier(event.completion_id),
            other_completion_id=self._identifier(event.other_completion_id),
            request_id=self._identifier(event.request_id),
            conversation_id=self._identifier(event.conversation_id),
            author_id=self._identifier(event.author_id),
            idempotency_key=self._identifier(event.idempotency_key),
            value_text=self._maybe(event.value_text),
            value_number=None if number is None or self._spans(f"{number:.15g}") else number,
            comment=self._maybe(event.comment),
            tags=tags and {self.text(name): self.text(value) for name, value in tags.items()},
        )

    def _maybe(self, text: str | None) -> str | None:
        return self.text(text) if text else text

    def _identifier(self, name: str | None) -> str | None:
        return None if name is None or self._spans(name) else name

    def _request(self, body: bytes) -> tuple[bytes, bool]:
        """The masked body, and whether anything in it was."""
        text = _text(body)
        if text is None:
            return MASKED.encode(), True
        spans = self._spans(text)
        if not spans:
            return body, False
        return self._body(text, _without_tokens(text) or text, spans), True

    def _answer(self, body: bytes, matched: bool) -> bytes:
        """The masked body of an answer to a request in which something was masked, or not."""
        text = _text(body)
        if text is None:
            return MASKED.encode()
        events = Events.read(text, MASKED)
        if events is not None:
            joined = events.mask(self._spans)
            spans = self._spans(text)
            if joined or matched or spans:
                events.change(without_tokens)
            return self._body(text, events.write(), spans)
        spans = self._spans(text)
        if not matched and not spans:
            return body
        changed = _without_tokens(text) if text.lstrip()[:1] in ("{", "[") else text
        return MASKED.encode() if changed is None else self._body(text, changed, spans)

    def _body(self, known: str, text: str, spans: list[Span]) -> bytes:
        """Every match replaced; of a bare number by a string, so that JSON stays JSON. `spans` are
        those of the text `known`."""
        if text != known:
            spans = self._spans(text)
        if not spans:
            return text.encode()
        numbers = [found.span() for found in _STRING_OR_NUMBER.finditer(text) if found[1]]
        starts = [start for start, _ in numbers]
        pieces = []
        for start, end in spans:
            index = bisect_left(starts, start + 1) - 1
            if index >= 0 and end <= numbers[index][1]:
                pieces.append((*numbers[index], f'"{MASKED}"'))
            else:
                pieces.append((start, end, MASKED))
        return _replaced(text, pieces).encode()

    def _spans(self, text: str) -> list[Span]:
        """What matches cover of the text, in order, apart from each other."""
        until = self._seconds() + SEARCH_SECONDS * (1 + len(text) // 2**20)
        try:
            return _merged(self._found(text, MAX_LEVELS, until))
        except _Unsearchable:
            return [(0, len(text))]

    def _matches(self, pattern: regex.Pattern, text: str, until: float) -> Iterator[Span]:
        if self._seconds() > until:
            raise _Unsearchable
        for count, match in enumerate(pattern.finditer(text)):
            if count == MAX_MATCHES or self._seconds() > until:
                raise _Unsearchable
            start, end = match.span()
            if end > start:
                yield start, end

    def _found(self, text: str, levels: int, until: float) -> list[Span]:
        whole = _whole_characters(text)
        found = [
            span for pattern in self._patterns for span in self._matches(pattern, whole, until)
        ]
        undone = _ESCAPES.sub(_undone, text) if "\\" in text else text
        if undone == text:
            return found
        if levels == 0:
            raise _Unsearchable
        deeper = self._found(undone, levels - 1, until)
        if not found and not deeper:
            return found
        escapes = _Escapes(text)
        found = [escapes.whole(*span) for span in found]
        return found + [(escapes.origin(start), escapes.origin(end)) for start, end in deeper]


def _whole_characters(text: str) -> str:
    """Of the same length; half a surrogate pair, which an escape may say, is no character."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return _HALF.sub("\ufffd", text)
    return text


def without_tokens(node: Any) -> bool:
    """Empty the fields that say token by token what a text says; whether there were any."""
    changed = False
    if isinstance(node, dict):
        for name, value in node.items():
            if name in TOKENS and isinstance(value, list | dict):
                node[name], changed = None, True
            else:
                changed = without_tokens(value) or changed
    elif isinstance(node, list):
        for value in node:
            changed = without_tokens(value) or changed
    return changed


def _without_tokens(text: str) -> str | None:
    """The same for JSON as text; None if it is not JSON."""
    try:
        content = json.loads(text)
        return json.dumps(content) if without_tokens(content) else text
    except (ValueError, RecursionError):
        return None


def _text(body: bytes) -> str | None:
    """As text; None for what is none, as of another encoding or compressed."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def _undone(escapes: re.Match[str]) -> str:
    text: str = _DECODER.decode(f'"{escapes[0]}"')
    return text


class _Escapes:
    """Where the escapes of a text are."""

    def __init__(self, text: str) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._undone: list[int] = []
        """Where each is in the text with all of them undone."""
        saved = 0
        for escape in _ESCAPE.finditer(text):
            self._starts.append(escape.start())
            self._ends.append(escape.end())
            self._undone.append(escape.start() - saved)
            saved += len(escape[0]) - 1

    def origin(self, position: int) -> int:
        """From a position in the text with all escapes undone to the one in the text itself."""
        last = bisect_left(self._undone, position) - 1
        return position if last < 0 else self._ends[last] + position - self._undone[last] - 1

    def whole(self, start: int, end: int) -> Span:
        """The span with the escapes that it cuts, so that what is left is still well formed."""
        first, last = bisect_left(self._starts, start) - 1, bisect_left(self._starts, end) - 1
        if first >= 0 and start < self._ends[first]:
            start = self._starts[first]
        return start, max(end, self._ends[last]) if last >= 0 else end


def _merged(spans: list[Span]) -> list[Span]:
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _replaced(text: str, pieces: Sequence[tuple[int, int, str]]) -> str:
    result, at = [], 0
    for start, end, instead in pieces:
        if start >= at:
            result += [text[at:start], instead]
        at = max(at, end)
    return "".join([*result, text[at:]])


def _cut(body: bytes, limit_bytes: int) -> bytes:
    """At most so many bytes, and no half character."""
    while 0 < limit_bytes < len(body) and body[limit_bytes] & 0xC0 == 0x80:
        limit_bytes -= 1
    return body[:limit_bytes]

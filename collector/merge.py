"""Streams as real servers send them, merged into the body that would have come whole.

- A call is told by its id: where two calls carry one index (Gemini), another id with a name is
  another call; a new id without a name (old vLLM) goes on with the call before.
- Chunks without choices, with `choices: null`, with the usage alone, with a whole message, keep
  alive comments, events without a blank line between them: all are met and none stops the rest.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from collector.items import Items
from collector.message import arguments_text, plain, thinking
from collector.openai_json import (
    Choice,
    Function,
    Logprobs,
    Message,
    Response,
    TokenLogprob,
    ToolCall,
    Usage,
    read_response,
    thought_of,
)
from everlearn.tolerant import UNREADABLE, loads
from everlearn.verdict import Signs, note


def merged(body: bytes) -> tuple[Response, Signs]:
    """The stream's answer, and what it said about how it ended."""
    stream = _Stream()
    for event, data in events(body):
        stream.add(event, data)
    return stream.whole(), stream.signs


def events(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and data of each server-sent event; JSON that stands bare in the stream as well."""
    name, lines = b"", list[bytes]()
    for line in body.splitlines():
        if line[:5] == b"data:":
            lines.append(line[5:].strip())
        elif line[:6] == b"event:":
            name = line[6:].strip()
        elif line[:6] == b"error:":
            yield b"error", line[6:].strip()
        elif line[:1] == b"{":
            yield name, line
        elif not line and lines:
            yield from _dispatched(name, lines)
            name, lines = b"", []
    if lines:
        yield from _dispatched(name, lines)


def _dispatched(name: bytes, lines: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """One event; several lines are one text by the book, one event each by some servers."""
    if len(lines) > 1:
        joined = b"\n".join(lines)
        try:
            loads(joined)
        except UNREADABLE:
            yield from ((name, line) for line in lines)
            return
        lines = [joined]
    yield name, lines[0]


@dataclass(slots=True)
class _Answer:
    """One choice as it grows."""

    texts: list[str] = field(default_factory=list)
    parts: list[Any] = field(default_factory=list)
    """Of content in parts, those that are no text."""
    thoughts: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    latest: dict[int | None, ToolCall] = field(default_factory=dict)
    """By index, the call that an unnamed part belongs to; None: the last one of all."""
    audio: dict[str, Any] = field(default_factory=dict)
    images: list[Any] = field(default_factory=list)
    message: Message | None = None
    finish_reason: str | None = None
    logprobs: list[float | None] | None = None
    token_ids: list[int] | None = None

    def add(self, choice: Choice) -> None:
        self.finish_reason = choice.finish_reason or self.finish_reason
        if choice.token_ids is not None:
            self.token_ids = (self.token_ids or []) + choice.token_ids
        if choice.logprobs is not None:
            self.logprobs = (self.logprobs or []) + logprob_values(choice.logprobs)
        if choice.text:
            self.texts.append(choice.text)
        if choice.delta is not None:
            self._delta(choice.delta)
        self.message = choice.message or self.message

    def _delta(self, delta: Message) -> None:
        content = delta.content
        if isinstance(content, str):
            self.texts.append(content)
        elif content is not None:
            self._content(content)
        thought = thought_of(delta)
        if thought:
            self.thoughts.append(thinking(thought) or "")
        if delta.refusal:
            self.refusals.append(plain(delta.refusal) or "")
        for call in delta.tool_calls or ():
            self._call(call)
        if delta.function_call is not None:
            self._call(ToolCall(function=delta.function_call))
        if isinstance(delta.audio, dict):
            self._sound(delta.audio)
        if isinstance(delta.images, list):
            self.images += delta.images

    def _content(self, content: Any) -> None:
        for part in content if isinstance(content, list) else [content]:
            kind = part.get("type") if isinstance(part, dict) else None
            if kind == "thinking":
                self.thoughts.append(thinking(part) or "")
            elif kind in (None, "text"):
                self.texts.append(plain(part) or "")
            else:
                self.parts.append(part)

    def _call(self, part: ToolCall) -> None:
        call = self._belongs_to(part)
        if call is None:
            self.calls.append(part)
        else:
            _grow(call, part)
        self.latest[part.index] = self.latest[None] = call or part

    def _belongs_to(self, part: ToolCall) -> ToolCall | None:
        """The call that the part goes on with; None: it begins another."""
        before = self.latest.get(part.index)
        named = bool(_name(part))
        if part.id:
            same = next((call for call in reversed(self.calls) if call.id == part.id), None)
            if same is not None:
                return None if named and _is_another(same, part) else same
            if before is None:
                return None
            if before.id:
                return None if named else before
        return None if named and before is not None and _is_whole(before) else before

    def _sound(self, piece: dict[str, Any]) -> None:
        for key, value in piece.items():
            if key in ("data", "transcript") and isinstance(value, str):
                value = self.audio.get(key, "") + value
            self.audio[key] = value

    def choice(self, index: int) -> Choice:
        """As it would have come whole."""
        tokens = [TokenLogprob(value) for value in self.logprobs or ()]
        return Choice(
            index=index,
            finish_reason=self.finish_reason,
            message=self._message(),
            token_ids=self.token_ids,
            logprobs=None if self.logprobs is None else Logprobs(content=tokens),
        )

    def _message(self) -> Message:
        said = (self.texts, self.parts, self.thoughts, self.refusals, self.calls, self.audio)
        if self.message is not None and not any(said):
            return self.message
        content: Any = "".join(self.texts) if self.texts else None
        if self.parts:
            content = [*([content] if content else ()), *self.parts]
        return Message(
            content=content,
            reasoning="".join(self.thoughts) or None,
            refusal="".join(self.refusals) or None,
            tool_calls=self.calls or None,
            audio=self.audio or None,
            images=self.images or None,
        )


def logprob_values(logprobs: Logprobs) -> list[float | None]:
    """Of the sampled tokens, under either API's names."""
    if logprobs.content is not None:
        return [token.logprob for token in logprobs.content]
    return logprobs.token_logprobs or []


def _grow(call: ToolCall, part: ToolCall) -> None:
    call.id = call.id or part.id
    call.type = call.type or part.type
    if part.custom is not None and call.custom is not None:
        call.custom.input = (call.custom.input or "") + (arguments_text(part.custom.input) or "")
    if part.function is None:
        return
    if call.function is None:
        call.function = Function()
    known, new = call.function, part.function
    known.name = _longer(known.name or "", new.name or "") or None
    more, have = arguments_text(new.arguments), arguments_text(known.arguments)
    if not more or (have == more and _closed(have)):
        return
    known.arguments = more if have in (None, "", "{}") else f"{have}{more}"


def _longer(known: str, more: str) -> str:
    """A name that comes with every piece of a call, grows with every piece, or is in pieces."""
    return more if more.startswith(known) else known + more


def _name(call: ToolCall) -> str | None:
    called = call.function or call.custom
    return None if called is None else called.name


def _is_whole(call: ToolCall) -> bool:
    """Whether nothing can follow: it has a name and its arguments are a whole JSON object."""
    return call.function is not None and bool(_name(call)) and _closed(call.function.arguments)


def _is_another(call: ToolCall, part: ToolCall) -> bool:
    """Whether a part under the same id is a call beside it: some ids are only the tool's name."""
    return (
        call.index != part.index
        and part.function is not None
        and _is_whole(call)
        and _closed(part.function.arguments)
        and call.function != part.function
    )


def _closed(arguments: Any) -> bool:
    if not isinstance(arguments, str):
        return isinstance(arguments, dict)
    try:
        return isinstance(loads(arguments), dict)
    except UNREADABLE:
        return False


class _Stream:
    """Everything a stream has said so far."""

    def __init__(self) -> None:
        self.signs = Signs()
        self._id: Any = None
        self._usage = Usage()
        self._prompt_token_ids: list[int] | None = None
        self._answers: dict[int, _Answer] = {}
        self._items = Items()
        self._whole: Response | None = None

    def add(self, event: bytes, data: bytes) -> None:
        if data == b"[DONE]":
            self.signs.ended = True
            return
        try:
            chunk = read_response(data)
        except UNREADABLE:
            if event == b"error":
                self._failed(data.decode("utf-8", "replace"))
            return
        note(self.signs, chunk)
        if event == b"error":
            self._failed(chunk.message if isinstance(chunk.message, str) else "error")
        self._id = self._id if self._id not in (None, "") else chunk.id
        self._used(chunk)
        self._prompt_token_ids = chunk.prompt_token_ids or self._prompt_token_ids
        for choice in chunk.choices or ():
            index = choice.index if isinstance(choice.index, int) else 0
            self._prompt_token_ids = choice.prompt_token_ids or self._prompt_token_ids
            self._answers.setdefault(index, _Answer()).add(choice)
        if chunk.type is not None:
            self._whole = chunk.response or self._whole
            self._items.add(chunk)

    def whole(self) -> Response:
        """The body that would have come whole."""
        whole = self._whole or Response(id=self._id)
        whole.output = self._items.output(whole.output) or None
        whole.usage = whole.usage or self._usage
        whole.prompt_token_ids = self._prompt_token_ids
        if self._answers:
            whole.choices = [self._answers[index].choice(index) for index in sorted(self._answers)]
        return whole

    def _used(self, chunk: Response) -> None:
        """What a chunk says of the tokens: in pieces, running, at its choice or in an extension;
        a count that is zero or left out takes none back."""
        said = (chunk.usage, chunk.x_groq and chunk.x_groq.usage)
        for usage in (*said, *(choice.usage for choice in chunk.choices or ())):
            if usage is not None:
                for name in Usage.__struct_fields__:
                    value = getattr(usage, name) or getattr(self._usage, name)
                    setattr(self._usage, name, value)

    def _failed(self, reason: str) -> None:
        self.signs.error = self.signs.error or reason or "error"

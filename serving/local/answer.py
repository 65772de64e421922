"""One answer as it grows: its tokens, the text that may be shown, and why it ended.

Text is held back while it could still turn into a stop string or is half a character, so that
the pieces of a stream add up to exactly the text of the whole answer.
"""

from dataclasses import dataclass
from typing import Any

from tokenizers.decoders import DecodeStream

from serving.local.lora import Adapter
from serving.local.sampling import Drawn, Sampling, make_generator
from serving.local.shape import Grammar, Shape

PRIMING_TOKENS = 4
"""Last prompt tokens the decoder sees first: enough to know whether a space leads the answer."""
MAX_CHARACTER_TOKENS = 4
"""A character of UTF-8 has at most four bytes, so at most this many tokens."""


def _priming(tokenizer: Any, prompt: list[int]) -> list[int]:
    """The last tokens from the beginning of a character on: the rest of one that began before
    them would be shown as the answer's."""
    for count in range(PRIMING_TOKENS, PRIMING_TOKENS + MAX_CHARACTER_TOKENS):
        ids = prompt[-count:]
        if not tokenizer.decode(ids).startswith("\ufffd"):
            return ids
    return prompt[-PRIMING_TOKENS:]


@dataclass(frozen=True)
class Piece:
    """What is new in one answer since the last piece."""

    index: int
    text: str
    drawn: tuple[Drawn, ...]
    finish_reason: str | None
    stop_reason: str | int | None


class Answer:
    """One of the `n` answers of a request."""

    def __init__(
        self,
        index: int,
        prompt: list[int],
        sampling: Sampling,
        adapter: Adapter | None,
        tokenizer: Any,
        grammar: Grammar | None = None,
    ) -> None:
        self.index = index
        self.prompt = prompt
        self.sampling = sampling
        self.adapter = adapter
        self.generator = make_generator(sampling.seed)
        bent = grammar is not None or not sampling.penalties.neutral
        self.shape = Shape(sampling.penalties, prompt, grammar) if bent else None
        self.finish_reason: str | None = None
        self.stop_reason: str | int | None = None
        self.drawn: list[Drawn] = []
        self._tokenizer = tokenizer
        self._decoder = DecodeStream(
            ids=_priming(tokenizer, prompt), skip_special_tokens=sampling.skip_special_tokens
        )
        self._text = ""
        self._shown_chars = 0
        self._shown_tokens = 0
        self._holdback = max((len(stop) - 1 for stop in sampling.stop), default=0)

    @property
    def length(self) -> int:
        """Tokens of prompt and answer whose keys are in the cache; the last drawn is not yet."""
        return len(self.prompt) + len(self.drawn) - 1

    def add(self, drawn: Drawn) -> None:
        """Take one token and decide whether the answer ends with it."""
        self.drawn.append(drawn)
        rules = self.sampling
        token = drawn.token_id
        ended = token in rules.end_ids or token in rules.stop_token_ids
        if ended:
            self.finish_reason = "stop"
            self.stop_reason = None if token in rules.end_ids else token
        if not ended or rules.include_stop:
            new = self._decoder.step(self._tokenizer, token) or ""
            self._text += new
            if new and not ended:
                self._end_at_stop_string(len(new))
        if self.finish_reason is None and self.shape is not None and self.shape.done:
            self.finish_reason = "stop"
        if self.finish_reason is None and len(self.drawn) >= rules.max_tokens:
            self.finish_reason = "length"

    def _end_at_stop_string(self, new_chars: int) -> None:
        start = len(self._text) - new_chars - self._holdback
        found = [
            (place, stop)
            for stop in self.sampling.stop
            if (place := self._text.find(stop, max(0, start))) >= 0
        ]
        if not found:
            return
        place, stop = min(found)
        self._text = self._text[: place + len(stop) if self.sampling.include_stop else place]
        self.finish_reason, self.stop_reason = "stop", stop

    def take(self) -> Piece:
        """What may be shown and was not yet."""
        held = 0 if self.finish_reason is not None else self._holdback
        end = max(self._shown_chars, len(self._text) - held)
        text, self._shown_chars = self._text[self._shown_chars : end], end
        drawn, self._shown_tokens = tuple(self.drawn[self._shown_tokens :]), len(self.drawn)
        return Piece(self.index, text, drawn, self.finish_reason, self.stop_reason)

"""Answers as vLLM writes them: chat and text completions, whole and in chunks."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import uuid4

from everlearn import __version__
from serving.local.answer import Piece
from serving.local.protocol import ChatRequest, Generation
from serving.local.tools import Reader

CONTEXT_TOKENS = 4
"""A character of UTF-8 has at most four bytes, so at most this many tokens."""
FINGERPRINT = f"everlearn-{__version__}"


class TokenTexts:
    """Text of single tokens, as logprobs show them.

    As in vLLM, a token that leaves a character unfinished has no text, and the one that finishes
    it has the whole character, so that the tokens' texts add up to the answer's.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._texts: dict[int, str] = {}

    def __call__(self, token_id: int, before: Sequence[int] = ()) -> str:
        """Text of a token that follows the tokens `before`."""
        text = self._texts.get(token_id)
        if text is None:
            text = self._texts[token_id] = self._tokenizer.decode([token_id])
        return self._finished(token_id, before) if text.endswith("\ufffd") else text

    def _finished(self, token_id: int, before: Sequence[int]) -> str:
        for count in range(1, len(before) + 1):
            context = list(before[-count:])
            text: str = self._tokenizer.decode([*context, token_id])
            if not text.endswith("\ufffd"):
                # None of them has shown its text: a space before the character is in it too.
                return text
        return ""


class Rendering(ABC):
    """What the pieces of one request turn into; the two subclasses differ in the choice only."""

    prefix: str
    kind: str
    chunk_kind: str
    names_its_call = False
    """A call that the client itself named ends like any answer, as in OpenAI's API."""

    def __init__(
        self, body: Generation, model: str, prompts: Sequence[list[int]], texts: TokenTexts
    ) -> None:
        self.body = body
        self.model = model
        self.prompts = prompts
        self.texts = texts
        self.id = f"{self.prefix}-{uuid4().hex}"
        self.created = int(time.time())
        self.completion_tokens = 0
        self._tails: dict[int, list[int]] = {}

    def usage(self) -> dict[str, Any]:
        prompt_tokens = sum(len(prompt) for prompt in self.prompts)
        return {
            "prompt_tokens": prompt_tokens,
            "total_tokens": prompt_tokens + self.completion_tokens,
            "completion_tokens": self.completion_tokens,
            "prompt_tokens_details": None,
            "completion_tokens_details": None,
        }

    def whole(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        self.completion_tokens = sum(len(piece.drawn) for piece in pieces)
        return {
            "id": self.id,
            "object": self.kind,
            "created": self.created,
            "model": self.model,
            "choices": [self.choice(piece) for piece in pieces],
            "system_fingerprint": FINGERPRINT,
            "usage": self.usage(),
        }

    def opening(self) -> Iterator[dict[str, Any]]:
        """Chunks before the first token."""
        return iter(())

    def chunk(self, piece: Piece) -> dict[str, Any]:
        """One chunk of a stream."""
        self.completion_tokens += len(piece.drawn)
        return self._envelope([self.delta(piece)])

    def closing(self) -> dict[str, Any]:
        """The usage chunk."""
        chunk = self._envelope([])
        return {**chunk, "system_fingerprint": FINGERPRINT, "usage": self.usage()}

    def _envelope(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        chunk: dict[str, Any] = {
            "id": self.id,
            "object": self.chunk_kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }
        options = self.body.stream_options
        if options and options.include_usage and options.continuous_usage_stats:
            chunk["usage"] = self.usage()
        return chunk

    @abstractmethod
    def choice(self, piece: Piece) -> dict[str, Any]:
        """One choice of an answer that is not streamed."""

    @abstractmethod
    def delta(self, piece: Piece) -> dict[str, Any]:
        """One choice of a chunk."""

    def _ending(self, piece: Piece, *, called: bool = False) -> dict[str, Any]:
        reason = piece.finish_reason
        if called and reason == "stop" and not self.names_its_call:
            reason = "tool_calls"
        return {"finish_reason": reason, "stop_reason": piece.stop_reason}

    def _token_ids(self, piece: Piece) -> list[int] | None:
        wanted = self.body.return_token_ids
        return [token.token_id for token in piece.drawn] if wanted else None

    def _contexts(self, piece: Piece) -> list[list[int]]:
        """The few tokens before each token of a piece."""
        tail = self._tails.get(piece.index, [])
        ids = [*tail, *(token.token_id for token in piece.drawn)]
        self._tails[piece.index] = ids[-CONTEXT_TOKENS:]
        places = range(len(tail), len(ids))
        return [ids[max(0, place - CONTEXT_TOKENS) : place] for place in places]

    def _name(self, token_id: int, before: Sequence[int]) -> str:
        as_id = self.body.return_tokens_as_token_ids
        return f"token_id:{token_id}" if as_id else self.texts(token_id, before)


class ChatRendering(Rendering):
    """chat.completion."""

    prefix = "chatcmpl"
    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"

    def __init__(
        self, body: ChatRequest, model: str, prompts: Sequence[list[int]], texts: TokenTexts
    ) -> None:
        super().__init__(body, model, prompts, texts)
        self._tools = body.tool_reading
        self.names_its_call = body.chosen_tool is not None
        self._readers: dict[int, Reader] = {}

    def whole(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        body = super().whole(pieces)
        body["prompt_token_ids"] = self.prompts[0] if self.body.return_token_ids else None
        return body

    def opening(self) -> Iterator[dict[str, Any]]:
        """The role of each choice, and once the prompt's token ids."""
        for index in range(self.body.answers):
            delta = {"role": "assistant", "content": ""}
            choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
            chunk = self._envelope([choice])
            chunk["prompt_token_ids"] = self.prompts[0] if self.body.return_token_ids else None
            yield chunk

    def choice(self, piece: Piece) -> dict[str, Any]:
        text, calls = self._read(piece)
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if calls:
            message["tool_calls"] = calls
        return {
            "index": piece.index,
            "message": message,
            "logprobs": self._logprobs(piece),
            **self._ending(piece, called=bool(calls)),
            "token_ids": self._token_ids(piece),
        }

    def delta(self, piece: Piece) -> dict[str, Any]:
        text, calls = self._read(piece)
        delta: dict[str, Any] = {"content": text}
        if calls:
            first = len(self._readers[piece.index].calls) - len(calls)
            delta["tool_calls"] = [
                {"index": number, **call} for number, call in enumerate(calls, first)
            ]
        choice = {
            "index": piece.index,
            "delta": delta,
            "logprobs": self._logprobs(piece),
            **self._ending(piece, called=self._called(piece)),
        }
        choice["token_ids"] = self._token_ids(piece)
        return choice

    def _read(self, piece: Piece) -> tuple[str, list[dict[str, Any]]]:
        """What of the piece is shown, and the calls that it ends."""
        if self._tools == "off":
            return piece.text, []
        reader = self._readers.setdefault(piece.index, Reader(forced=self._tools == "forced"))
        before = len(reader.calls)
        text = reader.feed(piece.text, ended=piece.finish_reason is not None)
        return text, [call.shown() for call in reader.calls[before:]]

    def _called(self, piece: Piece) -> bool:
        reader = self._readers.get(piece.index)
        return reader is not None and bool(reader.calls)

    def _logprobs(self, piece: Piece) -> dict[str, Any] | None:
        if self.body.logprob_count is None:
            return None
        content = [
            {
                **self._entry((token.token_id, token.logprob), before),
                "top_logprobs": [self._entry(pair, before) for pair in token.top],
            }
            for token, before in zip(piece.drawn, self._contexts(piece), strict=True)
        ]
        return {"content": content}

    def _entry(self, scored: tuple[int, float], before: Sequence[int]) -> dict[str, Any]:
        token_id, logprob = scored
        raw = list(self.texts(token_id, before).encode("utf-8", errors="replace"))
        name = self._name(token_id, before)
        return {"token": name, "logprob": max(logprob, -9999.0), "bytes": raw}


class TextRendering(Rendering):
    """text_completion; choice k of prompt p has index p * n + k."""

    prefix = "cmpl"
    kind = chunk_kind = "text_completion"

    def __init__(
        self, body: Generation, model: str, prompts: Sequence[list[int]], texts: TokenTexts
    ) -> None:
        super().__init__(body, model, prompts, texts)
        self._offsets = [0] * (len(self.prompts) * self.body.answers)
        self._begun: set[int] = set()

    def choice(self, piece: Piece) -> dict[str, Any]:
        choice = self.delta(piece)
        choice["token_ids"] = self._token_ids(piece)
        choice["prompt_token_ids"] = self._prompt_ids(piece)
        choice["prompt_logprobs"] = None
        return choice

    def delta(self, piece: Piece) -> dict[str, Any]:
        first = piece.index not in self._begun
        self._begun.add(piece.index)
        choice = {
            "index": piece.index,
            "text": piece.text,
            "logprobs": self._logprobs(piece),
            **self._ending(piece),
        }
        choice["prompt_token_ids"] = self._prompt_ids(piece) if first else None
        choice["token_ids"] = self._token_ids(piece)
        return choice

    def _prompt_ids(self, piece: Piece) -> list[int] | None:
        wanted = self.body.return_token_ids
        return self.prompts[piece.index // self.body.answers] if wanted else None

    def _logprobs(self, piece: Piece) -> dict[str, Any] | None:
        if self.body.logprob_count is None:
            return None
        offset, contexts = self._offsets[piece.index], self._contexts(piece)
        names = [
            self._name(token.token_id, before)
            for token, before in zip(piece.drawn, contexts, strict=True)
        ]
        offsets = []
        for name in names:
            offsets.append(offset)
            offset += len(name)
        self._offsets[piece.index] = offset
        return {
            "text_offset": offsets,
            "token_logprobs": [max(token.logprob, -9999.0) for token in piece.drawn],
            "tokens": names,
            "top_logprobs": [
                {
                    self._name(token_id, before): max(logprob, -9999.0)
                    for token_id, logprob in ((token.token_id, token.logprob), *token.top)
                }
                for token, before in zip(piece.drawn, contexts, strict=True)
            ],
        }

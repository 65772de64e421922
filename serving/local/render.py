"""Answers as vLLM writes them: chat and text completions, whole and in chunks."""

import time
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import uuid4

from serving.local.answer import Piece
from serving.local.protocol import Generation
from serving.local.sampling import Drawn


class TokenTexts:
    """Text of single tokens, as logprobs show them."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._texts: dict[int, str] = {}

    def __call__(self, token_id: int) -> str:
        text = self._texts.get(token_id)
        if text is None:
            text = self._texts[token_id] = self._tokenizer.decode([token_id])
        return text


class Rendering:
    """What the pieces of one request turn into; the two subclasses differ in the choice only."""

    prefix: str
    kind: str
    chunk_kind: str

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

    def usage(self) -> dict[str, Any]:
        prompt_tokens = sum(len(prompt) for prompt in self.prompts)
        return {
            "prompt_tokens": prompt_tokens,
            "total_tokens": prompt_tokens + self.completion_tokens,
            "completion_tokens": self.completion_tokens,
            "prompt_tokens_details": None,
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
        chunk["usage"] = self.usage()
        return chunk

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

    def choice(self, piece: Piece) -> dict[str, Any]:
        raise NotImplementedError

    def delta(self, piece: Piece) -> dict[str, Any]:
        raise NotImplementedError

    def _ending(self, piece: Piece) -> dict[str, Any]:
        return {"finish_reason": piece.finish_reason, "stop_reason": piece.stop_reason}

    def _token_ids(self, piece: Piece) -> list[int] | None:
        wanted = self.body.return_token_ids
        return [token.token_id for token in piece.drawn] if wanted else None

    def _name(self, token_id: int) -> str:
        as_id = self.body.return_tokens_as_token_ids
        return f"token_id:{token_id}" if as_id else self.texts(token_id)


class ChatRendering(Rendering):
    """chat.completion."""

    prefix = "chatcmpl"
    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"

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
            if self.body.return_token_ids:
                chunk["prompt_token_ids"] = self.prompts[0]
            yield chunk

    def choice(self, piece: Piece) -> dict[str, Any]:
        message = {"role": "assistant", "content": piece.text, "refusal": None}
        return {
            "index": piece.index,
            "message": message,
            "logprobs": self._logprobs(piece.drawn),
            **self._ending(piece),
            "token_ids": self._token_ids(piece),
        }

    def delta(self, piece: Piece) -> dict[str, Any]:
        choice = {
            "index": piece.index,
            "delta": {"content": piece.text},
            "logprobs": self._logprobs(piece.drawn),
            **self._ending(piece),
        }
        if self.body.return_token_ids:
            choice["token_ids"] = self._token_ids(piece)
        return choice

    def _logprobs(self, drawn: Sequence[Drawn]) -> dict[str, Any] | None:
        if self.body.logprob_count is None:
            return None
        content = [
            {
                **self._entry(token.token_id, token.logprob),
                "top_logprobs": [self._entry(*pair) for pair in token.top],
            }
            for token in drawn
        ]
        return {"content": content}

    def _entry(self, token_id: int, logprob: float) -> dict[str, Any]:
        name = self._name(token_id)
        raw = list(name.encode("utf-8", errors="replace"))
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
        if self.body.return_token_ids:
            choice["token_ids"] = self._token_ids(piece)
            choice["prompt_token_ids"] = self._prompt_ids(piece) if first else None
        return choice

    def _prompt_ids(self, piece: Piece) -> list[int] | None:
        wanted = self.body.return_token_ids
        return self.prompts[piece.index // self.body.answers] if wanted else None

    def _logprobs(self, piece: Piece) -> dict[str, Any] | None:
        offset = self._offsets[piece.index]
        names = [self._name(token.token_id) for token in piece.drawn]
        offsets = []
        for name in names:
            offsets.append(offset)
            offset += len(name)
        self._offsets[piece.index] = offset
        if self.body.logprob_count is None:
            return None
        return {
            "text_offset": offsets,
            "token_logprobs": [max(token.logprob, -9999.0) for token in piece.drawn],
            "tokens": names,
            "top_logprobs": [
                {
                    self._name(token_id): max(logprob, -9999.0)
                    for token_id, logprob in ((token.token_id, token.logprob), *token.top)
                }
                for token in piece.drawn
            ],
        }

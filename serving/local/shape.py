"""What bends one answer's logits before a token is drawn: penalties, and a grammar it must follow.

A grammar is compiled by llguidance from a JSON schema; each step it says which tokens may come, so
what is drawn is valid by construction. Logprobs stay the model's own, as in vLLM.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

ANY_OBJECT = {"type": "object"}
LAYOUT = {"whitespace_pattern": r"[ \n]{0,16}"}
"""Any usual layout; without an end, white space is where a weak model never comes out of."""


class BadGrammar(ValueError):
    """A schema that no grammar can be made of; the text says why."""


@dataclass(frozen=True)
class Penalties:
    """OpenAI's on what the answer has said, and vLLM's `repetition_penalty` on the prompt too."""

    presence: float = 0.0
    frequency: float = 0.0
    repetition: float = 1.0

    @property
    def neutral(self) -> bool:
        return self == Penalties()


class Grammars:
    """Makes grammars for one tokenizer; the first one takes a second."""

    def __init__(self, tokenizer: Any, vocabulary: int, end_ids: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._end_ids = sorted(end_ids)
        self._made: Any = None

    def check(self, schema: dict[str, Any]) -> str:
        """The grammar of a schema; BadGrammar with the reason."""
        from llguidance import LLMatcher

        try:
            grammar: str = LLMatcher.grammar_from_json_schema(
                json.dumps({**schema, "x-guidance": LAYOUT})
            )
        except (ValueError, RecursionError) as error:
            raise BadGrammar(str(error)) from error
        reason = LLMatcher.validate_grammar(grammar, self._own)
        if reason:
            raise BadGrammar(str(reason).splitlines()[0])
        return grammar

    def start(self, grammar: str) -> "Grammar":
        """The beginning of one answer."""
        from llguidance import LLMatcher

        return Grammar(LLMatcher(self._own, grammar), self._vocabulary)

    @property
    def _own(self) -> Any:
        if self._made is None:
            from llguidance.hf import from_tokenizer

            self._made = from_tokenizer(
                self._tokenizer, n_vocab=self._vocabulary, eos_token=self._end_ids or None
            )
        return self._made


class Grammar:
    """How far one answer has come in its grammar."""

    def __init__(self, matcher: Any, vocabulary: int) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._bits = torch.zeros((vocabulary + 31) // 32, dtype=torch.int32)
        self._places = torch.arange(32, dtype=torch.int32)

    @property
    def done(self) -> bool:
        """Nothing can follow."""
        return bool(self._matcher.is_stopped())

    def forbidden(self) -> Tensor:
        """True for the tokens that may not come next [vocabulary]."""
        self._matcher.unsafe_compute_mask_ptr(self._bits.data_ptr(), self._bits.numel() * 4)
        allowed = (self._bits[:, None] >> self._places) & 1
        return allowed.flatten()[: self._vocabulary] == 0

    def take(self, token: int) -> None:
        self._matcher.consume_token(token)


class Shape:
    """Penalties and grammar of one answer; `apply` before each draw, `take` after it."""

    def __init__(
        self, penalties: Penalties, prompt: Sequence[int], grammar: Grammar | None
    ) -> None:
        self._penalties = penalties
        self._prompt = torch.tensor(sorted(set(prompt)))
        self._counts: Tensor | None = None
        self._grammar = grammar

    @property
    def done(self) -> bool:
        return self._grammar is not None and self._grammar.done

    def apply(self, logits: Tensor) -> None:
        """Bend one row [vocabulary] in place."""
        if not self._penalties.neutral:
            self._penalise(logits)
        if self._grammar is not None and not self._grammar.done:
            logits.masked_fill_(self._grammar.forbidden(), float("-inf"))

    def _penalise(self, logits: Tensor) -> None:
        if self._counts is None:
            self._counts = logits.new_zeros(len(logits))
        said = self._counts > 0
        if self._penalties.repetition != 1.0:
            seen = said.clone()
            seen[self._prompt] = True
            own = logits[seen]
            factor = self._penalties.repetition
            logits[seen] = torch.where(own > 0, own / factor, own * factor)
        logits -= self._penalties.frequency * self._counts
        logits -= self._penalties.presence * said

    def take(self, token: int) -> None:
        """A token was drawn."""
        if self._counts is not None:
            self._counts[token] += 1
        if self._grammar is not None:
            self._grammar.take(token)

"""From logits to tokens, each row by its own parameters.

Logprobs are the model's own, before temperature and truncation, as vLLM's are. A seeded row draws
from its own generator, so its answer does not depend on who shares the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from serving.local.shape import Penalties, Shape

GREEDY_BELOW = 1e-5
"""Temperatures under this mean: the most likely token."""


@dataclass(frozen=True)
class Sampling:
    """How one answer is drawn and where it ends."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0 = all."""
    seed: int | None = None
    stop: tuple[str, ...] = ()
    end_ids: frozenset[int] = frozenset()
    """The model's own ends; the answer's stop_reason is then null."""
    stop_token_ids: frozenset[int] = frozenset()
    logprobs: int | None = None
    """None: no logprobs; k: the sampled token's and those of the k most likely."""
    include_stop: bool = False
    skip_special_tokens: bool = True
    penalties: Penalties = field(default_factory=Penalties)

    @property
    def greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW


class Drawn(NamedTuple):
    """One sampled token."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    """(token id, logprob), most likely first."""


def make_generator(seed: int | None) -> torch.Generator | None:
    """A row's own source of chance."""
    return None if seed is None else torch.Generator().manual_seed(seed % 2**63)


class Sampler:
    """Draws for one fixed set of rows; built anew when rows join or leave."""

    def __init__(
        self,
        rows: Sequence[Sampling],
        generators: Sequence[torch.Generator | None],
        shapes: Sequence[Shape | None] = (),
    ) -> None:
        self._shapes = [(row, shape) for row, shape in enumerate(shapes) if shape is not None]
        self._chance = [number for number, row in enumerate(rows) if not row.greedy]
        drawn = [rows[number] for number in self._chance]
        self._generators = [generators[number] for number in self._chance]
        self._temperature = torch.tensor([[row.temperature] for row in drawn])
        self._top_p = torch.tensor([[row.top_p] for row in drawn])
        self._top_k = [row.top_k for row in drawn]
        self._truncate = any(row.top_p < 1.0 or row.top_k > 0 for row in drawn)
        self._wanted = [row.logprobs for row in rows]
        self._most = max((row.logprobs or 0 for row in rows), default=0)

    def draw(self, logits: Tensor) -> list[Drawn]:
        """One token per row of logits [rows, vocabulary]."""
        bent = self._bend(logits)
        tokens = bent.argmax(dim=-1)
        if self._chance:
            tokens[self._chance] = self._draw_by_chance(bent[self._chance])
        ids = tokens.tolist()
        for row, shape in self._shapes:
            shape.take(ids[row])
        if all(wanted is None for wanted in self._wanted):
            return [Drawn(token, 0.0, ()) for token in ids]
        return self._with_logprobs(logits, tokens, ids)

    def _bend(self, logits: Tensor) -> Tensor:
        if not self._shapes:
            return logits
        bent = logits.clone()
        for row, shape in self._shapes:
            shape.apply(bent[row])
        return bent

    def _draw_by_chance(self, logits: Tensor) -> Tensor:
        scaled = logits / self._temperature
        if self._truncate:
            scaled = self._cut(scaled)
        noise = torch.empty_like(scaled).exponential_()
        for row, generator in enumerate(self._generators):
            if generator is not None:
                noise[row].exponential_(generator=generator)
        # Exponential races: the winner of p / noise is a draw from p.
        return (scaled.softmax(dim=-1) / noise).argmax(dim=-1)

    def _cut(self, scaled: Tensor) -> Tensor:
        """Minus infinity outside top_k and outside the smallest set that holds top_p."""
        ordered, order = scaled.sort(dim=-1, descending=True)
        size = scaled.shape[-1]
        limits = torch.tensor([[k if k > 0 else size] for k in self._top_k])
        ordered = ordered.masked_fill(torch.arange(size)[None] >= limits, float("-inf"))
        before = ordered.softmax(dim=-1).cumsum(dim=-1).roll(1, dims=-1)
        before[:, 0] = 0.0
        # top_p 1 keeps all: a sum that rounds up to 1 early must not cut the tail.
        cut = (before >= self._top_p) & (self._top_p < 1.0)
        cut[:, 0] = False
        ordered = ordered.masked_fill(cut, float("-inf"))
        return torch.empty_like(scaled).scatter_(-1, order, ordered)

    def _with_logprobs(self, logits: Tensor, tokens: Tensor, ids: list[int]) -> list[Drawn]:
        logprobs = logits.log_softmax(dim=-1)
        chosen = logprobs.gather(-1, tokens[:, None])[:, 0].tolist()
        best = logprobs.topk(min(self._most, logits.shape[-1]), dim=-1)
        values, indices = best.values.tolist(), best.indices.tolist()
        return [
            Drawn(
                ids[row],
                chosen[row],
                tuple(zip(indices[row][:wanted], values[row][:wanted], strict=True))
                if wanted
                else (),
            )
            for row, wanted in enumerate(self._wanted)
        ]

"""Cosine similarity by the embeddings of an upstream's `/v1/embeddings`; 0 to 1, below 0 is 0."""

import asyncio
import math
import time
from collections.abc import Sequence
from typing import Any

from evaluators.judge.budget import Budget, paying, require_price
from evaluators.judge.client import CHARACTERS_PER_TOKEN, LIKELY_MS
from evaluators.judge.connection import Connection, upstream_of
from everlearn.config import Service
from everlearn.errors import GraderError
from everlearn.graders import TextSimilarity


class Cosine:
    """Embeds both texts in one call; belongs to the event loop it is first asked in."""

    def __init__(
        self, spec: TextSimilarity, service: Service | None, budget: Budget | None = None
    ) -> None:
        """ConfigError for an upstream that is not there, or has no price to count a budget by."""
        self._spec = spec
        asked = service is not None and spec.embedding_model is not None
        where = f"grader {spec.name}"
        upstream = upstream_of(spec.upstream, service, where) if asked and service else None
        self._price = None if upstream is None else upstream.price
        self._budget = None if upstream is None else budget
        if self._budget is not None and upstream is not None:
            require_price(upstream, self._budget.limit, spec.name)
        self._connection = Connection(upstream, spec.timeout_seconds, "the embedding model")

    async def __call__(self, text: str, reference: str) -> tuple[float, dict[str, float]]:
        """The similarity and what it cost; GraderError without a model, or what it said."""
        if self._spec.embedding_model is None:
            raise GraderError(
                "cosine needs an embedding model: set embedding_model, and upstream, in the grader"
            )
        body = {"model": self._spec.embedding_model, "input": [text, reference]}
        cost: dict[str, float] = {}
        likely = (len(text) + len(reference)) / CHARACTERS_PER_TOKEN
        try:
            async with paying(self._budget, self._paid(likely, LIKELY_MS)) as bill:
                started = time.monotonic()
                async with asyncio.timeout(self._spec.timeout_seconds):
                    answer = await self._connection.post("/embeddings", body)
                seconds, tokens = time.monotonic() - started, _tokens(answer)
                cost["seconds"] = round(seconds, 4)
                if tokens is not None:
                    bill.price = self._paid(tokens, 1000 * seconds)
                    cost |= {"embedding_tokens": tokens}
                    cost |= {} if self._price is None else {"price": bill.price}
        except TimeoutError as error:
            raise GraderError(
                f"the embedding model gave no answer in {self._spec.timeout_seconds:g} s"
            ) from error
        return max(0.0, min(1.0, _cosine(*_vectors(answer)))), cost

    def _paid(self, tokens: float, milliseconds: float) -> float:
        return 0.0 if self._price is None else self._price.of(tokens, 0, milliseconds)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._connection.aclose()
        if self._budget is not None:
            await self._budget.aclose()


def _tokens(answer: dict[str, Any]) -> int | None:
    usage = answer.get("usage")
    tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return tokens if isinstance(tokens, int) else None


def _vectors(answer: dict[str, Any]) -> tuple[Sequence[float], Sequence[float]]:
    try:
        rows = sorted(answer["data"], key=lambda row: row["index"])
        one, two = (tuple(map(float, row["embedding"])) for row in rows)
    except (KeyError, TypeError, ValueError) as error:
        raise GraderError("the embedding model's server did not answer two embeddings") from error
    if len(one) != len(two) or not one:
        raise GraderError("the embedding model's embeddings have different lengths")
    return one, two


def _cosine(one: Sequence[float], two: Sequence[float]) -> float:
    size = math.hypot(*one) * math.hypot(*two)
    if not size or not math.isfinite(size):
        raise GraderError("the embedding model gave an embedding without a direction")
    return math.fsum(a * b for a, b in zip(one, two, strict=True)) / size

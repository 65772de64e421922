"""Cosine similarity by the embeddings of an upstream's `/v1/embeddings`; 0 to 1, below 0 is 0."""

import asyncio
import math
from collections.abc import Sequence
from typing import Any

from evaluators.judge.connection import Connection, upstream_of
from everlearn.config import Service
from everlearn.errors import GraderError
from everlearn.graders import TextSimilarity


class Cosine:
    """Embeds both texts in one call; belongs to the event loop it is first asked in."""

    def __init__(self, spec: TextSimilarity, service: Service | None) -> None:
        self._spec = spec
        asked = service is not None and spec.embedding_model is not None
        where = f"grader {spec.name}"
        upstream = upstream_of(spec.upstream, service, where) if asked and service else None
        self._connection = Connection(upstream, spec.timeout_seconds, "the embedding model")

    async def __call__(self, text: str, reference: str) -> float:
        """The similarity; GraderError without a model, or what it said."""
        if self._spec.embedding_model is None:
            raise GraderError(
                "cosine needs an embedding model: set embedding_model, and upstream, in the grader"
            )
        body = {"model": self._spec.embedding_model, "input": [text, reference]}
        try:
            async with asyncio.timeout(self._spec.timeout_seconds):
                answer = await self._connection.post("/embeddings", body)
        except TimeoutError as error:
            raise GraderError(
                f"the embedding model gave no answer in {self._spec.timeout_seconds:g} s"
            ) from error
        return max(0.0, min(1.0, _cosine(*_vectors(answer))))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._connection.aclose()


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

"""`text_similarity`: how similar two texts are, 0 to 1."""

import asyncio

from evaluators.graders.base import Base
from evaluators.judge.budget import Budget
from evaluators.judge.embeddings import Cosine
from evaluators.similarity import METRICS
from evaluators.types import Item, Sample, Score
from everlearn.config import Service
from everlearn.graders import TextSimilarity

AT_ONCE = 2_000
"""Characters compared on the spot; more, or a library's first import, go to a thread."""


class TextSimilarityGrader(Base[TextSimilarity]):
    """Applies one metric to the rendered texts."""

    def __init__(
        self, spec: TextSimilarity, service: Service | None, budget: Budget | None = None
    ) -> None:
        super().__init__(spec)
        self._metric = METRICS.get(spec.evaluation_metric)
        self._cosine = Cosine(spec, service, budget)
        self._loaded = False
        self.slow = self._metric is None
        self._input = self.template(spec.input, "input")
        self._reference = self.template(spec.reference, "reference")

    async def __call__(self, sample: Sample, item: Item) -> Score:
        text, reference = self._input.render(sample, item), self._reference.render(sample, item)
        if self._metric is None:
            value, cost = await self._cosine(text, reference)
            return self.passed(value, cost=cost)
        if self._loaded and len(text) + len(reference) <= AT_ONCE:
            value = self._metric(text, reference)
        else:
            value = await asyncio.to_thread(self._metric, text, reference)
            self._loaded = True
        return self.passed(value)

    async def aclose(self) -> None:
        await self._cosine.aclose()

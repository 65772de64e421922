"""`multi`: a formula over other graders; unscored when any of them is."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from evaluators.definition import content_hash
from evaluators.formula import Formula
from evaluators.graders.base import Base
from evaluators.score import score
from evaluators.types import Item, Sample, Score
from everlearn.graders import Multi


class MultiGrader(Base[Multi]):
    """Asks every part at once and computes."""

    def __init__(self, spec: Multi, formula: Formula, parts: Mapping[str, Base[Any]]) -> None:
        super().__init__(spec)
        self._formula = formula
        self.parts = {name: parts[name] for name in formula.names}
        """By name."""
        self.version = content_hash(spec, *(part.spec for part in self.parts.values()))
        self.needs_reference = any(part.needs_reference for part in parts.values())
        self.needs_feedback = any(part.needs_feedback for part in parts.values())
        self.slow = any(part.slow for part in parts.values())
        self.runs_code = any(part.runs_code for part in parts.values())

    async def __call__(self, sample: Sample, item: Item) -> Score:
        scores = await asyncio.gather(*(score(part, sample, item) for part in self.parts.values()))
        return _combine(self._formula, dict(zip(self.parts, scores, strict=True)))

    async def aclose(self) -> None:
        for part in self.parts.values():
            await part.aclose()


def _combine(formula: Formula, scores: Mapping[str, Score]) -> Score:
    subs = {name: part.value for name, part in scores.items()}
    cost = _total(scores.values())
    failed = [f"{name}: {part.error}" for name, part in scores.items() if part.error]
    missing = [f"{name}: {part.reason}" for name, part in scores.items() if part.value is None]
    if failed:
        return Score(error="; ".join(failed), sub_scores=subs, cost=cost)
    if missing:
        return Score(reason="; ".join(missing), sub_scores=subs, cost=cost)
    values = {name: value for name, value in subs.items() if value is not None}
    return Score(formula.evaluate(values), sub_scores=subs, cost=cost)


def _total(scores: Iterable[Score]) -> dict[str, float]:
    total: dict[str, float] = {}
    for part in scores:
        for key, value in part.cost.items():
            total[key] = total.get(key, 0) + value
    return total

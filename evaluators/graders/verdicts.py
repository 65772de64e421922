"""`pairwise_model` and `rubric_model`: judges of few words, whose instructions are ours.

- The judged text is fenced as data (`judge/fence.py`); the instructions stand apart, as the system
  message, from a file that is part of the grader's version.
- Pairwise asks in both orders and takes the mean: whatever a place is worth to the judge cancels.
- A rubric is one yes or no per criterion. Gates come first: one that fails is a 0, and the rest is
  not asked. A criterion without a verdict leaves the whole unscored.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from evaluators.definition import content_hash
from evaluators.graders.base import Base
from evaluators.judge.budget import Budget
from evaluators.judge.client import Judge
from evaluators.judge.fence import fenced
from evaluators.judge.guidelines import guided
from evaluators.judge.verdict import read_label
from evaluators.types import Item, Sample, Score
from everlearn.config import Service
from everlearn.errors import ConfigError
from everlearn.graders import Criterion, PairwiseModel, RubricModel

_PROMPTS = Path(__file__).resolve().parent.parent / "judge"
_WORTH = {"A": 1.0, "tie": 0.5, "B": 0.0}

Spec = TypeVar("Spec", bound=PairwiseModel | RubricModel)
Told = tuple[str, str | None, dict[str, float]]
"""Label, reason and cost."""


class _Verdicts(Base[Spec]):
    """Asks for one label at a time."""

    slow = True
    prompt: str
    labels: tuple[str, ...]

    def __init__(
        self, spec: Spec, service: Service | None, budget: Budget | None, guidelines: str = ""
    ) -> None:
        super().__init__(spec)
        self._guidelines = guidelines
        self._instructions = (_PROMPTS / f"{self.prompt}.txt").read_text().strip()
        self.version = content_hash(spec, guided(guidelines, self._instructions))
        self._request = self.template(spec.request, "request")
        self._answer = self.template(spec.answer, "answer")
        self._judge = Judge(spec, service, budget)

    async def aclose(self) -> None:
        await self._judge.aclose()

    async def _ask(self, criterion: str, data: dict[str, str]) -> Told:
        instructions = self._instructions.replace("CRITERION", criterion)
        messages = [
            {"role": "system", "content": guided(self._guidelines, instructions)},
            {"role": "user", "content": fenced(data)},
        ]
        answer = await self._judge.ask(messages, _schema(self.labels))
        label, reason = read_label(answer.text, self.labels, "\n".join(data.values()))
        return label, reason, answer.cost


class PairwiseGrader(_Verdicts[PairwiseModel]):
    """1 where the answer is better than the other in both orders, 0.5 for a tie."""

    prompt, labels = "pairwise", ("A", "B", "tie")

    def __init__(
        self,
        spec: PairwiseModel,
        service: Service | None,
        budget: Budget | None = None,
        guidelines: str = "",
    ) -> None:
        super().__init__(spec, service, budget, guidelines)
        self._other = self.template(spec.other, "other")

    async def __call__(self, sample: Sample, item: Item) -> Score:
        request = self._request.render(sample, item)
        answer, other = self._answer.render(sample, item), self._other.render(sample, item)
        if answer == other:
            return _verdict(0.5, "the same text")
        asked = [
            self._ask(self.spec.criterion, {"request": request, "answer A": a, "answer B": b})
            for a, b in ((answer, other), (other, answer))
        ]
        (one, why, cost), (two, why_too, more) = await _all(asked)
        first, second = _WORTH[one], 1 - _WORTH[two]
        reason = f"first: {one}, {why}; swapped: {two}, {why_too}"
        if {first, second} == {0.0, 1.0}:
            reason = f"its place decided: {reason}"
        parts = {"first": first, "second": second}
        cost = _sum([cost, more])
        return _verdict((first + second) / 2, reason, cost=cost, sub_scores=parts)


def _verdict(value: float, reason: str, **more: Any) -> Score:
    label = "better" if value > 0.5 else "worse" if value < 0.5 else "tie"
    return Score(value, label=label, reason=reason, **more)


class RubricGrader(_Verdicts[RubricModel]):
    """The weighted share of criteria that the answer meets; 0 where it fails a gate."""

    prompt, labels = "rubric", ("yes", "no")

    def __init__(
        self,
        spec: RubricModel,
        service: Service | None,
        budget: Budget | None = None,
        guidelines: str = "",
    ) -> None:
        twice = [name for name, n in Counter(each.name for each in spec.criteria).items() if n > 1]
        if twice or all(each.gate for each in spec.criteria):
            what = f"name used twice: {twice[0]}" if twice else "one at least is no gate"
            raise ConfigError(f"grader {spec.name}: criteria: {what}")
        super().__init__(spec, service, budget, guidelines)

    async def __call__(self, sample: Sample, item: Item) -> Score:
        data = {
            "request": self._request.render(sample, item),
            "answer": self._answer.render(sample, item),
        }
        met: dict[str, float | None] = {each.name: None for each in self.spec.criteria}
        costs: list[dict[str, float]] = []
        for gate in (True, False):
            asked = [each for each in self.spec.criteria if each.gate is gate]
            told = await _all([self._ask(each.text, data) for each in asked])
            costs += [cost for _, _, cost in told]
            met.update({e.name: float(t[0] == "yes") for e, t in zip(asked, told, strict=True)})
            failed = [f"{e.name}: {t[1]}" for e, t in zip(asked, told, strict=True) if t[0] == "no"]
            if gate and failed:
                reason = f"fails {'; '.join(failed)}"[:500]
                return self.passed(0.0, reason=reason, sub_scores=met, cost=_sum(costs))
        reason = f"misses {'; '.join(failed)}"[:500] if failed else "meets every criterion"
        value = _weighted(self.spec.criteria, met)
        return self.passed(value, reason=reason, sub_scores=met, cost=_sum(costs))


async def _all(asked: Sequence[Any]) -> list[Told]:
    """Every verdict; where one fails the others are let go and its error is told."""
    tasks = [asyncio.ensure_future(each) for each in asked]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


def _weighted(criteria: Sequence[Criterion], met: dict[str, float | None]) -> float:
    soft = [each for each in criteria if not each.gate]
    total = sum(each.weight for each in soft)
    return sum(each.weight * (met[each.name] or 0.0) for each in soft) / total


def _sum(costs: Sequence[dict[str, float]]) -> dict[str, float]:
    """By key; seconds too: it is work that was paid for, not time that was waited."""
    total: Counter[str] = Counter()
    for cost in costs:
        total.update(cost)
    return {key: round(value, 6) for key, value in total.items()}


def _schema(labels: tuple[str, ...]) -> dict[str, object]:
    return {
        "type": "object",
        "properties": {
            "reason": {"type": "string"},
            "label": {"type": "string", "enum": [*labels]},
        },
        "required": ["reason", "label"],
        "additionalProperties": False,
    }

"""What an evaluator takes and gives: the seam between those who have answers and those who judge.

- A `Score` without a value is unscored, never zero, and says why in `reason` or `error`.
- `reason` alone: something is not known yet (no reference, no feedback). `error`: the evaluator
  itself failed, and may be asked again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

Item = Mapping[str, Any]
"""What is known beside the answer: messages, prompt (last user text), reference, correction,
thumbs, metadata, feedback; of the grader routes, whatever the caller sent."""


@dataclass(frozen=True)
class Sample:
    """One answer of a model."""

    output_text: str
    choices: tuple[Any, ...] = ()
    output_tools: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Score:
    """One verdict; `cost` holds seconds and, of a judge, tokens."""

    value: float | None = None
    label: str | None = None
    reason: str | None = None
    sub_scores: Mapping[str, float | None] = field(default_factory=dict)
    error: str | None = None
    cost: Mapping[str, float] = field(default_factory=dict)


class Evaluator(Protocol):
    """(sample, item) to Score."""

    @property
    def name(self) -> str:
        """As in the task file."""
        ...

    @property
    def version(self) -> str:
        """Content hash of the definition: another definition is another evaluator."""
        ...

    async def __call__(self, sample: Sample, item: Item) -> Score:
        """The verdict; GraderError when there is none."""
        ...

    async def aclose(self) -> None:
        """Release connections."""
        ...

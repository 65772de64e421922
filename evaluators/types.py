"""What an evaluator takes and gives: the seam between those who have answers and those who judge.

- A `Score` without a value is unscored, never zero, and says why in `reason` or `error`.
- `reason` alone: something is not known yet (no reference, no feedback). `error`: the evaluator
  itself failed, and may be asked again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from everlearn.tolerant import UNREADABLE, loads

Item = Mapping[str, Any]
"""What is known beside the answer: messages, prompt (last user text), reference, correction,
thumbs, metadata, feedback; of the grader routes, whatever the caller sent."""


@dataclass(frozen=True)
class Sample:
    """One answer of a model; None is what nobody knows, which is not the same as nothing."""

    output_text: str
    """What a person sees; below the text the calls that the client is to run, as JSON."""
    choices: tuple[Any, ...] | None = None
    output_tools: tuple[Any, ...] | None = None
    content: str | None = None
    """The text without the calls, where that is told apart."""

    @property
    def output_json(self) -> Any:
        """The text read as JSON; None where it is none."""
        try:
            return loads(self.output_text if self.content is None else self.content)
        except UNREADABLE:
            return None


def sample_of(answer: str | None, response_text: str, finish_reason: str | None) -> Sample:
    """An answer as the lake holds it: the message as JSON, null where nobody kept it, its text."""
    message = None if answer is None else loads(answer)
    if not isinstance(message, dict):
        return Sample(response_text)
    tools, content = message.get("tool_calls"), message.get("content")
    alone = {"index": 0, "message": message, "finish_reason": finish_reason}
    return Sample(
        response_text,
        choices=tuple(message.get("choices") or (alone,)),
        output_tools=tuple(tools) if isinstance(tools, list) else (),
        content=content if isinstance(content, str) else None,
    )


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

"""`score_model` and `label_model`: a judge model's verdict, read strictly.

The messages are the task's own words; what they are filled with is somebody else's and stands below
them as fenced data (`judge/fence.py`), named where it belongs.
"""

from pathlib import Path
from typing import Any, TypeVar

from evaluators.definition import content_hash
from evaluators.graders.base import Base
from evaluators.judge.budget import Budget
from evaluators.judge.client import Answer, Judge
from evaluators.judge.fence import fenced
from evaluators.judge.guidelines import guided
from evaluators.judge.verdict import read_label, read_score
from evaluators.template import Template
from evaluators.types import Item, Sample, Score
from everlearn.config import Service
from everlearn.errors import ConfigError
from everlearn.graders import LabelModel, Message, ScoreModel, TextPart

_PROMPTS = Path(__file__).resolve().parent.parent / "judge"
_REASON = {"type": "string"}

Spec = TypeVar("Spec", bound=ScoreModel | LabelModel)


class _ModelGrader(Base[Spec]):
    """Renders the messages; what is data and what the verdict looks like is said at the end."""

    slow = True

    def __init__(self, spec: Spec, instruction: str, judge: Judge) -> None:
        super().__init__(spec)
        if not spec.input:
            raise ConfigError(f"grader {spec.name}: input = []: a judge needs a message")
        self._messages = [
            (message.role, self.template(_text(spec, index, message), f"input[{index}]"))
            for index, message in enumerate(spec.input)
        ]
        if any(template.names for _, template in self._messages):
            instruction = f"{(_PROMPTS / 'data.txt').read_text().strip()}\n{instruction}"
        self._instruction = instruction
        self.version = content_hash(spec, instruction)
        self._judge = judge

    async def aclose(self) -> None:
        await self._judge.aclose()

    async def _ask(self, sample: Sample, item: Item, key: str, value: Any) -> tuple[Answer, str]:
        """The judge's answer, and all that it was shown as data."""
        filled = [(role, each, each.values(sample, item)) for role, each in self._messages]
        messages = [
            {"role": role, "content": _filled(template, data)} for role, template, data in filled
        ]
        messages[-1]["content"] += f"\n\n{self._instruction}"
        answer = await self._judge.ask(messages, _schema(key, value))
        return answer, "\n".join(text for _, _, data in filled for text in data.values())


class ScoreModelGrader(_ModelGrader[ScoreModel]):
    """A number in `range`."""

    def __init__(
        self,
        spec: ScoreModel,
        service: Service | None,
        budget: Budget | None = None,
        guidelines: str = "",
    ) -> None:
        low, high = spec.range
        if not low < high:
            raise ConfigError(f"grader {spec.name}: range = {spec.range}: low is below high")
        text = (_PROMPTS / "score.txt").read_text().strip()
        text = text.replace("LOW", f"{low:g}").replace("HIGH", f"{high:g}")
        super().__init__(spec, guided(guidelines, text), Judge(spec, service, budget))

    async def __call__(self, sample: Sample, item: Item) -> Score:
        number: dict[str, object] = {
            "type": "number",
            "minimum": self.spec.range[0],
            "maximum": self.spec.range[1],
        }
        answer, judged = await self._ask(sample, item, "score", number)
        value, reason = read_score(answer.text, *self.spec.range, judged)
        return self.passed(value, reason=reason, cost=answer.cost)


class LabelModelGrader(_ModelGrader[LabelModel]):
    """One of `labels`; 1 if it is a passing one, else 0."""

    def __init__(
        self,
        spec: LabelModel,
        service: Service | None,
        budget: Budget | None = None,
        guidelines: str = "",
    ) -> None:
        strangers = sorted(set(spec.passing_labels) - set(spec.labels))
        if strangers or not spec.passing_labels:
            raise ConfigError(
                f"grader {spec.name}: passing_labels = {list(spec.passing_labels)}: "
                f"some of {', '.join(spec.labels)}"
            )
        text = (_PROMPTS / "label.txt").read_text().strip()
        labels = ", ".join(f'"{label}"' for label in spec.labels)
        text = guided(guidelines, text.replace("LABELS", labels))
        super().__init__(spec, text, Judge(spec, service, budget))

    async def __call__(self, sample: Sample, item: Item) -> Score:
        label: dict[str, object] = {"type": "string", "enum": list(self.spec.labels)}
        answer, judged = await self._ask(sample, item, "label", label)
        given, reason = read_label(answer.text, self.spec.labels, judged)
        value = float(given in self.spec.passing_labels)
        return Score(value, label=given, reason=reason, cost=answer.cost)


def _filled(template: Template, data: dict[str, str]) -> str:
    return f"{template.named}\n\n{fenced(data)}" if data else template.named


def _text(spec: ScoreModel | LabelModel, index: int, message: Message) -> str:
    """The message as one text, parts apart by a line; ConfigError for what is no text."""
    content = message.content
    parts = content if isinstance(content, tuple) else (content,)
    texts = []
    for part in parts:
        if not isinstance(part, str | TextPart):
            raise ConfigError(
                f"grader {spec.name}: input[{index}]: {part.type}: only text is shown to a judge"
            )
        texts.append(part if isinstance(part, str) else part.text)
    return "\n".join(texts)


def _schema(key: str, value: dict[str, object]) -> dict[str, object]:
    return {
        "type": "object",
        "properties": {"reason": _REASON, key: value},
        "required": ["reason", key],
        "additionalProperties": False,
    }

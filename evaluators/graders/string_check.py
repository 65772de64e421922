"""`string_check`: 1 when two texts compare as asked, else 0. like: contains; ilike: in any case."""

from collections.abc import Callable

from evaluators.graders.base import Base
from evaluators.types import Item, Sample, Score
from everlearn.graders import StringCheck

_COMPARE: dict[str, Callable[[str, str], bool]] = {
    "eq": lambda text, reference: text == reference,
    "ne": lambda text, reference: text != reference,
    "like": lambda text, reference: reference in text,
    "ilike": lambda text, reference: reference.casefold() in text.casefold(),
}


class StringCheckGrader(Base[StringCheck]):
    """Compares the rendered input with the rendered reference."""

    def __init__(self, spec: StringCheck) -> None:
        super().__init__(spec)
        self._input = self.template(spec.input, "input")
        self._reference = self.template(spec.reference, "reference")

    async def __call__(self, sample: Sample, item: Item) -> Score:
        text, reference = self._input.render(sample, item), self._reference.render(sample, item)
        return Score(float(_COMPARE[self.spec.operation](text, reference)))

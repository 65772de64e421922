"""`feedback`: what people said about the answer; unscored while nobody has.

An expert's verdict outranks the users'. A correction counts as 0 for the answer it corrects,
unless it repeats it. Of users the mean by weight counts, each with the latest of theirs. A number
outside 0 to 1 leaves the answer unscored.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from evaluators.graders.base import Base
from evaluators.template import Unknown
from evaluators.types import Item, Sample, Score
from everlearn.task import FeedbackGrader as Feedback

Row = Mapping[str, Any]


class FeedbackGrader(Base[Feedback]):
    """Reads `item.feedback`: rows of the lake's feedback about this answer, oldest first."""

    needs_feedback = True

    async def __call__(self, sample: Sample, item: Item) -> Score:
        verdicts = [
            (row, value)
            for row in item.get("feedback") or ()
            if (value := self._verdict(row, sample.output_text)) is not None
        ]
        strange = [value for _, value in verdicts if not 0 <= value <= 1]
        if strange:
            raise Unknown(f"{self.spec.feedback}: {strange[-1]:g} is not in 0 to 1")
        experts = [(row, value) for row, value in verdicts if row.get("author") == "expert"]
        if experts:
            row, value = experts[-1]
            return Score(value, reason=f"{row['kind']} by an expert")
        return _mean(verdicts, self.spec.feedback)

    def _verdict(self, row: Row, answer: str) -> float | None:
        if row["kind"] == "correction":
            if row.get("author") != "expert" or row.get("value_text") is None:
                return None
            return float(row["value_text"].strip() == answer.strip())
        if row.get("name") != self.spec.feedback:
            return None
        if row["kind"] == "binary" and row.get("value_bool") is not None:
            return float(row["value_bool"])
        number = row.get("value_number")
        return (
            float(number) if row["kind"] in ("scalar", "implicit") and number is not None else None
        )


def _mean(verdicts: Iterable[tuple[Row, float]], name: str) -> Score:
    latest = {
        row.get("author_id") or f"anonymous {index}": (row, value)
        for index, (row, value) in enumerate(verdicts)
    }
    weights = {who: float(row.get("weight", 1.0)) for who, (row, _) in latest.items()}
    total = sum(weights.values())
    if total <= 0:
        raise Unknown(f"no feedback named {name}" if not latest else f"{name}: no trusted author")
    mean = sum(weights[who] * value for who, (_, value) in latest.items()) / total
    return Score(mean, reason=f"{len(latest)} of {name}")

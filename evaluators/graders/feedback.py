"""`feedback`: what people said about the answer; unscored while nobody has.

What a value means and whose word counts is `everlearn.opinion`'s to say; a value off its scale is
left out, and named where nothing else is left.
"""

from evaluators.graders.base import Base
from evaluators.template import Unknown
from evaluators.types import Item, Sample, Score
from everlearn import opinion
from everlearn.graders import FeedbackGrader as Feedback


class FeedbackGrader(Base[Feedback]):
    """Reads `item.feedback`: rows of the lake's feedback about this answer, oldest first."""

    needs_feedback = True

    async def __call__(self, sample: Sample, item: Item) -> Score:
        name, scale = self.spec.feedback, self.spec.scale
        heard, strange = opinion.voices(
            item.get("feedback") or (), sample.output_text, [name], {name: scale} if scale else {}
        )
        found = opinion.opinion(heard)
        if found is None:
            reason = f"{name}: no trusted author" if heard else f"no feedback named {name}"
            raise Unknown(strange[-1] if strange else reason)
        if found.expert:
            return Score(found.value, reason=f"{found.kind} by an expert")
        return Score(found.value, reason=f"{found.voices} of {name}")

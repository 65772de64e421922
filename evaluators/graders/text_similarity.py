"""`text_similarity`: how similar two texts are, 0 to 1."""

from evaluators.graders.base import Base
from evaluators.similarity import METRICS
from evaluators.types import Item, Sample, Score
from everlearn.errors import ConfigError
from everlearn.task import TextSimilarity


class TextSimilarityGrader(Base[TextSimilarity]):
    """Applies one metric to the rendered texts."""

    def __init__(self, spec: TextSimilarity) -> None:
        super().__init__(spec)
        if spec.evaluation_metric not in METRICS:
            raise ConfigError(
                f"grader {spec.name}: evaluation_metric = {spec.evaluation_metric!r}: "
                f"not supported; there are: {', '.join(METRICS)}"
            )
        self._metric = METRICS[spec.evaluation_metric]
        self._input = self.template(spec.input, "input")
        self._reference = self.template(spec.reference, "reference")

    async def __call__(self, sample: Sample, item: Item) -> Score:
        text, reference = self._input.render(sample, item), self._reference.render(sample, item)
        return Score(self._metric(text, reference))

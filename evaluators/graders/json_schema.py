"""`json_schema`: 1 when the text is JSON that the schema accepts, else 0 with the first reason."""

from evaluators.graders.base import Base
from evaluators.schema import Schema
from evaluators.types import Item, Sample, Score
from everlearn.graders import JsonSchema


class JsonSchemaGrader(Base[JsonSchema]):
    """Parses and validates; the schema is checked once, its patterns included."""

    def __init__(self, spec: JsonSchema) -> None:
        super().__init__(spec)
        self._input = self.template(spec.input, "input")
        self._schema = Schema(spec.json_schema, f"grader {spec.name}: json_schema")

    async def __call__(self, sample: Sample, item: Item) -> Score:
        problem = self._schema.problem(self._input.render(sample, item))
        return Score(1.0) if problem is None else Score(0.0, reason=problem)

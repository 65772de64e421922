"""`json_schema`: 1 when the text is JSON that the schema accepts, else 0 with the first reason."""

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
from jsonschema.validators import validator_for

from evaluators.graders.base import Base
from evaluators.types import Item, Sample, Score
from everlearn.errors import ConfigError
from everlearn.task import JsonSchema


class JsonSchemaGrader(Base[JsonSchema]):
    """Parses and validates; the schema is checked once, its patterns included."""

    def __init__(self, spec: JsonSchema) -> None:
        super().__init__(spec)
        self._input = self.template(spec.input, "input")
        kind = validator_for(spec.json_schema, default=jsonschema.Draft202012Validator)
        try:
            kind.check_schema(spec.json_schema)
            for pattern in _patterns(spec.json_schema):
                re.compile(pattern)
        except (jsonschema.SchemaError, re.error) as error:
            reason = getattr(error, "message", str(error))
            raise ConfigError(f"grader {spec.name}: json_schema: {reason}") from error
        self._validator = kind(spec.json_schema)

    async def __call__(self, sample: Sample, item: Item) -> Score:
        try:
            value = json.loads(self._input.render(sample, item))
        except (ValueError, RecursionError) as error:
            return Score(0.0, reason=f"not JSON: {error}")
        problem = next(self._validator.iter_errors(value), None)
        if problem is None:
            return Score(1.0)
        return Score(0.0, reason=f"{problem.json_path}: {problem.message}"[:300])


def _patterns(schema: Any) -> Iterator[str]:
    """Every regular expression in a schema."""
    if isinstance(schema, list):
        for part in schema:
            yield from _patterns(part)
    elif isinstance(schema, dict):
        if isinstance(schema.get("pattern"), str):
            yield schema["pattern"]
        if isinstance(schema.get("patternProperties"), dict):
            yield from schema["patternProperties"]
        for part in schema.values():
            yield from _patterns(part)

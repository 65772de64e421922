"""JSON schemas from strangers: checked once, evaluated in bounded time, nothing fetched.

- Size and depth of schema and value are limited, and so is the number of keywords tried.
- References stay within the schema: no network, no file.
- Patterns run in linear time.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any, NoReturn

import jsonschema
from jsonschema.validators import extend, validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from everlearn import regex
from everlearn.errors import ConfigError, GraderError

MAX_SCHEMA_CHARACTERS = 1 << 18
MAX_VALUE_CHARACTERS = 1 << 20
MAX_DEPTH = 64
MAX_STEPS = 100_000
"""Keywords tried on one value: about half a second."""
_WRAPPER = frozenset({"name", "description", "strict", "schema"})
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")

Keyword = Callable[[Any, Any, Any, Any], Iterator[Any] | None]


class Schema:
    """A compiled schema."""

    def __init__(self, content: Any, where: str) -> None:
        """ConfigError naming `where` when it cannot be kept."""
        self._where = where
        content = _unwrapped(content)
        kind = validator_for(content, default=jsonschema.Draft202012Validator)
        try:
            self._check(content)
            kind.check_schema(content)
            self._patterns = {text: regex.compile(text) for text in _patterns(content)}
        except (jsonschema.SchemaError, ValueError, RecursionError) as error:
            reason = getattr(error, "message", str(error))
            raise ConfigError(f"{where}: {reason[:300]}") from error
        self._steps = 0
        self._validator = self._bounded(kind)(content, registry=Registry())

    def problem(self, text: str) -> str | None:
        """Why the text is not JSON that the schema accepts; GraderError past the limits."""
        if len(text) > MAX_VALUE_CHARACTERS:
            return f"{len(text)} characters; {MAX_VALUE_CHARACTERS} are looked at"
        try:
            value = json.loads(text, parse_constant=_no_json)
        except (ValueError, RecursionError) as error:
            return f"not JSON: {error}"
        if _depth(value) > MAX_DEPTH:
            return f"nested deeper than {MAX_DEPTH}"
        self._steps = 0
        try:
            found = next(self._validator.iter_errors(value), None)
        except RecursionError as error:
            raise GraderError(f"{self._where}: refers to itself without end") from error
        except Unresolvable as error:
            raise GraderError(f"{self._where}: {error}") from error
        return None if found is None else f"{found.json_path}: {found.message}"[:300]

    def _check(self, content: Any) -> None:
        try:
            size = len(json.dumps(content))
        except TypeError as error:
            raise ValueError(f"not JSON: {error}") from error
        if size > MAX_SCHEMA_CHARACTERS:
            raise ValueError(f"{size} characters; at most {MAX_SCHEMA_CHARACTERS}")
        if _depth(content) > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH}")
        for node in _objects(content):
            for key in _REFERENCES:
                if isinstance(node.get(key), str) and not node[key].startswith("#"):
                    raise ValueError(
                        f"{key} {node[key]!r:.100}: only references within the schema (#/...) are "
                        "followed; nothing is fetched"
                    )

    def _bounded(self, kind: Any) -> Any:
        ours = {
            **kind.VALIDATORS, "pattern": self._pattern, "uniqueItems": _unique,
            "multipleOf": _multiple,
            "patternProperties": self._pattern_properties,
        }  # fmt: skip
        return extend(kind, {name: self._counted(keyword) for name, keyword in ours.items()})

    def _counted(self, keyword: Keyword) -> Keyword:
        def step(validator: Any, argument: Any, instance: Any, schema: Any) -> Iterator[Any] | None:
            self._steps += 1
            if self._steps > MAX_STEPS:
                raise GraderError(f"{self._where}: more than {MAX_STEPS} steps on this answer")
            return keyword(validator, argument, instance, schema)

        return step

    def _search(self, pattern: str, text: str) -> bool:
        text = text.encode("utf-8", "replace").decode()  # half a surrogate pair is no character
        return self._patterns[pattern].search(text) is not None

    def _pattern(self, validator: Any, pattern: Any, instance: Any, schema: Any) -> Iterator[Any]:
        if isinstance(instance, str) and not self._search(pattern, instance):
            yield jsonschema.ValidationError(f"{instance!r:.100} does not match {pattern!r:.100}")

    def _pattern_properties(
        self, validator: Any, patterns: Mapping[str, Any], instance: Any, schema: Any
    ) -> Iterator[Any]:
        if isinstance(instance, dict):
            for pattern, below in patterns.items():
                for key, value in instance.items():
                    if self._search(pattern, key):
                        yield from validator.descend(value, below, path=key, schema_path=pattern)


def _unwrapped(content: Any) -> Any:
    """The schema itself where it is written as in `response_format`: `{name, strict, schema}`. Read
    as a schema, that would accept whatever there is."""
    wrapped = isinstance(content, dict) and isinstance(content.get("schema"), dict)
    return content["schema"] if wrapped and content.keys() <= _WRAPPER else content


def _no_json(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _multiple(validator: Any, step: Any, instance: Any, schema: Any) -> Iterator[Any]:
    """In decimals, as both are written: 4.35 is a multiple of 0.01, in floats it is not."""
    if type(instance) not in (int, float) or not math.isfinite(instance):
        return
    if (Fraction(repr(instance)) / Fraction(repr(step))).denominator > 1:
        yield jsonschema.ValidationError(f"{instance!r} is not a multiple of {step!r}")


def _unique(validator: Any, wanted: Any, instance: Any, schema: Any) -> Iterator[Any]:
    """By a set of texts: the library compares each with each."""
    if wanted and isinstance(instance, list):
        texts = {json.dumps(_plain(value), sort_keys=True) for value in instance}
        if len(texts) < len(instance):
            yield jsonschema.ValidationError("the items are not unique")


def _plain(value: Any) -> Any:
    """1.0 and 1 are the same number in JSON schema."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return value


def _patterns(schema: Any) -> Iterator[str]:
    for node in _objects(schema):
        if isinstance(node.get("pattern"), str):
            yield node["pattern"]
        if isinstance(node.get("patternProperties"), dict):
            yield from node["patternProperties"]


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in it, at any depth, without recursion."""
    waiting = [value]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


def _depth(value: Any) -> int:
    level, depth = [value], 0
    while level := [node for node in level if isinstance(node, dict | list)]:
        depth += 1
        if depth > MAX_DEPTH:
            break
        level = [
            child for node in level for child in (node.values() if isinstance(node, dict) else node)
        ]
    return depth

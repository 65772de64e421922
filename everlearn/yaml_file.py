"""YAML files that a model reads: every problem is one line that says where it stands and what is
allowed. The value of a key that nobody knows is never shown: it may be a secret."""

from collections.abc import Hashable, Sequence
from datetime import date
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from everlearn.errors import ConfigError

_SCALARS = (bool, int, float, date)


def describe(error: ValidationError, where: str, model: Any) -> str:
    """One line per problem: file, key, value received and what is allowed."""
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"{where}: {key}: {_unknown(model, problem['loc'])}")
            continue
        # What a rule of ours says of a whole section names its own key and value.
        ours = problem["type"] == "value_error" and isinstance(problem["input"], dict)
        received = "" if problem["type"] == "missing" or ours else f" = {_short(problem['input'])}"
        said = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "string_type" and isinstance(problem["input"], _SCALARS):
            said += "; YAML reads yes, no, on, off, numbers and dates as such: put it in quotes"
        lines.append(": ".join(filter(None, (where, f"{key}{received}", said))))
    return "\n".join(lines)


def _unknown(model: Any, place: Sequence[int | str]) -> str:
    known = sorted({name for each in _models_at(model, place[:-1]) for name in each.model_fields})
    nearest = get_close_matches(str(place[-1]), known, n=1)
    if nearest:
        return f"unknown key; did you mean {nearest[0]!r}?"
    return f"unknown key; there are: {', '.join(known)}" if known else "unknown key"


def _models_at(model: Any, place: Sequence[int | str]) -> list[type[BaseModel]]:
    """What may stand at a place of the config: several where a tag chooses."""
    if get_origin(model) is Annotated:
        return _models_at(get_args(model)[0], place)
    if get_origin(model) in (Union, UnionType):
        return [found for each in get_args(model) for found in _models_at(each, place)]
    if isinstance(model, type) and issubclass(model, BaseModel):
        if not place:
            return [model]
        if place[0] not in model.model_fields:
            # A tag stands in the place of an error, and in no file.
            return _models_at(model, place[1:])
        field = model.model_fields[str(place[0])]
        return _models_at(field.annotation, place[1:])
    arguments = [each for each in get_args(model) if each is not Ellipsis]
    return _models_at(arguments[-1], place[1:]) if arguments and place else []


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds one mapping; ConfigError otherwise."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader) or {}
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text at byte {error.start}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {_not_yaml(error)}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a mapping of keys, found {type(content).__name__}")
    return content


class _Loader(yaml.SafeLoader):
    """Reads a key once: of two sections under one name the first would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set[str]()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                problem = f"the key {key.value!r} stands there twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _not_yaml(error: yaml.YAMLError) -> str:
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return f"not YAML: {str(error).splitlines()[0]}"
    mark = error.problem_mark
    reason = " ".join(part for part in (error.context, error.problem) if part)
    return f"line {mark.line + 1}, column {mark.column + 1}: not YAML: {reason}"

"""A grader's definition outside a task file: parsed from JSON or YAML, and its content hash."""

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from everlearn.errors import ConfigError
from everlearn.graders import Grader
from everlearn.rules import ReleaseRules
from everlearn.task import Task
from everlearn.yaml_file import describe, read_yaml

_GRADER: TypeAdapter[Grader] = TypeAdapter(Grader)


def parse(content: Any, where: str = "grader") -> Grader:
    """A grader from plain JSON types; ConfigError with one line per problem."""
    try:
        return _GRADER.validate_python(content)
    except ValidationError as error:
        raise ConfigError(describe(error, where, Grader)) from error


def read(path: Path) -> Grader:
    """The grader in a JSON or YAML file."""
    return parse(read_yaml(path), str(path))  # JSON is YAML


def content_hash(*specs: BaseModel | str) -> str:
    """Of definitions, defaults included, and texts they use: equal hashes give equal verdicts."""
    plain = [spec if isinstance(spec, str) else spec.model_dump(mode="json") for spec in specs]
    content = json.dumps(plain, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def standalone(spec: Grader, folder: Path) -> Task:
    """A task of one grader, whose relative paths start at `folder`."""
    return Task(
        task="grader",
        base_model="-",
        upstream="-",
        graders=(spec,),
        release=ReleaseRules(primary=spec.name),
        folder=folder.resolve(),
    )

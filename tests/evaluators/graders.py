"""Graders and items for these tests."""

from pathlib import Path
from typing import Any

import duckdb

from evaluators.definition import parse, standalone
from evaluators.graders import build
from evaluators.graders.base import Base
from evaluators.score import score
from evaluators.types import Sample, Score
from everlearn.config import Service
from everlearn.task import Task

CHECK = {
    "name": "check", "type": "string_check", "operation": "eq",
    "input": "{{ sample.output_text }}", "reference": "yes",
}  # fmt: skip
"""Says whether the answer is yes."""


def make_grader(folder: Path = Path(), service: Service | None = None, **spec: Any) -> Base[Any]:
    """The evaluator of a definition; its relative paths start at `folder`."""
    grader = parse({"name": "grader", **spec})
    return build(grader, standalone(grader, folder), service)


async def verdict(grader: Base[Any], answer: str, **item: Any) -> Score:
    """What the grader says of an answer."""
    return await score(grader, Sample(answer), item)


def make_database(folder: Path) -> Path:
    """`orders.duckdb` with 12 orders of 3 customers."""
    path = folder / "orders.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute(
            "CREATE TABLE orders AS SELECT i AS id, ['ann', 'bob', 'cy'][1 + i % 3] AS customer, "
            "i * 0.1 AS amount FROM range(12) t(i)"
        )
    return path


def make_task(folder: Path, *graders: dict[str, Any], **fields: Any) -> Task:
    """A task whose primary grader is the first."""
    return Task(
        **{
            "task": "text2sql",
            "base_model": "base",
            "upstream": "local",
            "folder": folder,
            "graders": graders,
            "release": {"primary": graders[0]["name"]},
            **fields,
        }
    )

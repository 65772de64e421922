"""The grader routes of the OpenAI format.

What comes over the network is less trusted than a task file: a python grader runs only where
bubblewrap confines it, an execution grader only on the databases that the tasks name.
"""

from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel

from console.source import Read, Source
from evaluators.definition import parse, standalone
from evaluators.graders import build
from evaluators.route import run_grader
from evaluators.sandbox import bubblewrap
from everlearn.errors import InputError
from everlearn.task import Execution, Grader, Multi, PythonGrader

router = APIRouter(prefix="/v1/fine_tuning/alpha/graders")


class RunBody(BaseModel):
    """As the OpenAI SDK sends it."""

    grader: dict[str, Any]
    model_sample: str | dict[str, Any]
    item: dict[str, Any] = {}


class ValidateBody(BaseModel):
    """As the OpenAI SDK sends it."""

    grader: dict[str, Any]


@router.post("/run")
async def run(body: RunBody, source: Read) -> dict[str, Any]:
    """Grade one answer."""
    spec = _admitted(parse(body.grader), source)
    folder = source.service.tasks_path
    return await run_grader(spec, body.item, body.model_sample, folder, source.service)


@router.post("/validate")
def validate(body: ValidateBody, source: Read) -> dict[str, Any]:
    """The grader as it is understood; 400 when it does not compile."""
    spec = _admitted(parse(body.grader), source)
    build(spec, standalone(spec, source.service.tasks_path), source.service)
    return {"grader": spec.model_dump(mode="json")}


def _admitted(spec: Grader, source: Source) -> Grader:
    databases = {
        (task.folder / grader.database).resolve()
        for task in source.tasks().values()
        for grader in task.graders
        if isinstance(grader, Execution)
    }
    for part in _parts(spec):
        if isinstance(part, PythonGrader) and bubblewrap() is None:
            raise InputError("python graders are run for the network only where bwrap is installed")
        if isinstance(part, Execution):
            path = (source.service.tasks_path / part.database).resolve()
            if path not in databases:
                raise InputError(f"database {part.database!r}: not named by any task")
    return spec


def _parts(spec: Grader) -> Iterator[Grader]:
    yield spec
    if isinstance(spec, Multi):
        for part in spec.graders.values():
            yield from _parts(part)

"""The grader routes of the OpenAI format.

What comes over the network is less trusted than a task file: what runs code runs in isolation
only, whatever the config says, an execution grader on the databases and with the commands that
the tasks name, an endpoint is asked only where a task names it, and no guidelines are read but
those that a task names.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

from console.source import Read, Source
from evaluators.bulk import in_background
from evaluators.definition import parse, standalone
from evaluators.graders import build
from evaluators.graders.command import tool
from evaluators.route import payer, run_grader
from evaluators.sandbox import require
from everlearn.config import Sandbox
from everlearn.errors import InputError
from everlearn.graders import (
    CommandExecution,
    Endpoint,
    Execution,
    Grader,
    Judging,
    Multi,
    PythonExecution,
    PythonGrader,
)

router = APIRouter(prefix="/v1/fine_tuning/alpha/graders")

_RULES = Sandbox(isolation="bubblewrap")


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
    service = source.service.model_copy(update={"sandbox": _RULES})
    paid_by = payer(spec, source.tasks())
    work = run_grader(
        spec, body.item, body.model_sample, service.tasks_path, service, paid_by=paid_by
    )
    # beside this loop, which serves everybody
    return await run_in_threadpool(in_background, work)


@router.post("/validate")
def validate(body: ValidateBody, source: Read) -> dict[str, Any]:
    """The grader as it is understood; 400 when it does not compile."""
    spec = _admitted(parse(body.grader), source)
    build(spec, standalone(spec, source.service.tasks_path), source.service)
    return {"grader": spec.model_dump(mode="json")}


def _admitted(spec: Grader, source: Source) -> Grader:
    declared = list(_declared(source))
    databases = {
        (f / each.database).resolve() for f, each in declared if isinstance(each, Execution)
    }
    addresses = [(e.url, e.headers_env) for _, e in declared if isinstance(e, Endpoint)]
    for part in _parts(spec):
        if isinstance(part, PythonGrader | PythonExecution | Execution | CommandExecution):
            require(_RULES)
        if isinstance(part, Execution):
            path = (source.service.tasks_path / part.database).resolve()
            if path not in databases:
                raise InputError(f"database {part.database!r}: not named by any task")
        if isinstance(part, CommandExecution):
            tools = [tool(each, f) for f, each in declared if isinstance(each, CommandExecution)]
            if tool(part, source.service.tasks_path) not in tools:
                raise InputError(f"command {list(part.command)!r}: no task names it and its reads")
        if isinstance(part, Judging) and part.guidelines is not None:
            files = {(f / e.guidelines).resolve() for f, e in declared
                     if isinstance(e, Judging) and e.guidelines is not None}  # fmt: skip
            if (source.service.tasks_path / part.guidelines).resolve() not in files:
                raise InputError(f"guidelines {part.guidelines!r}: not named by any task")
        if isinstance(part, Endpoint) and (part.url, part.headers_env) not in addresses:
            raise InputError(f"url {part.url!r}: no task names it with these headers_env")
    return spec


def _declared(source: Source) -> Iterator[tuple[Path, Grader]]:
    """Every grader of a task file, with the file's folder."""
    for task in source.tasks().values():
        for grader in (*task.graders, *([task.reward] if task.reward else [])):
            for part in _parts(grader):
                yield task.folder, part


def _parts(spec: Grader) -> Iterator[Grader]:
    yield spec
    if isinstance(spec, Multi):
        for part in spec.graders.values():
            yield from _parts(part)

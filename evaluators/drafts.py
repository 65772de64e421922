"""Drafted graders between being shown and being accepted: what was seen is what is taken."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluators.definition import parse
from evaluators.draft import Draft
from everlearn.config import Service
from everlearn.errors import ConfigError
from everlearn.graders import Grader
from everlearn.task import Task, load_task_file
from everlearn.yaml_edit import add, replace_file


def keep(service: Service, task: Task, rubric: str, draft: Draft) -> Path:
    """The file that holds it until another one of that name is drafted."""
    path = _path(service, task, draft.grader.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {**asdict(draft), "grader": plain(draft.grader), "rubric": _digest(rubric)}
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
    return path


def kept(service: Service, task: Task, rubric: str, name: str) -> Draft | None:
    """The latest of that name, if it was of this very rubric and can be read."""
    try:
        content = json.loads(_path(service, task, name).read_text(encoding="utf-8"))
        if content["rubric"] != _digest(rubric):
            return None
        spec = parse(content["grader"])
        return Draft(spec, tuple(content["shown"]), content["attempts"], content["reason"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def accept(service: Service, task: Task, spec: Grader) -> Path:
    """Write it into the task's file as an adviser; the file. ConfigError where that cannot be done
    without changing anything else."""
    path = _file(service, task)
    try:
        text = add(path.read_text(encoding="utf-8"), ("graders",), plain(spec))
        text = add(text, ("judges", "drafted"), spec.name)
        beside = path.with_name(f".{path.stem}.draft")
        beside.write_text(text, encoding="utf-8")
        try:
            load_task_file(beside)
        finally:
            beside.unlink()
        replace_file(path, text)
    except (ConfigError, OSError) as error:
        raise ConfigError(
            f"{path}: {error}: add {json.dumps(plain(spec))} to graders and {spec.name!r} to "
            "judges.drafted by hand"
        ) from error
    return path


def plain(spec: Grader) -> dict[str, Any]:
    """As it stands in a file: without what is not said."""
    said: dict[str, Any] = spec.model_dump(mode="json", exclude_defaults=True)
    return {"name": spec.name, "type": spec.type, **said}


def _file(service: Service, task: Task) -> Path:
    for path in sorted(service.tasks_path.glob("*.yaml")):
        try:
            if load_task_file(path).task == task.task:
                return path
        except ConfigError:
            continue
    raise ConfigError(f"{service.tasks_path}: no file declares task {task.task}")


def _path(service: Service, task: Task, name: str) -> Path:
    """By digest: a name may hold any character."""
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return service.data_path / "drafts" / f"{task.task}.{digest}.json"


def _digest(rubric: str) -> str:
    return hashlib.sha256(rubric.strip().encode()).hexdigest()

"""A task file: the whole declaration of one learning loop, graders in the OpenAI grader format."""

import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import Field, ValidationError, model_validator

from everlearn.config import Section, Service
from everlearn.coverage import first_on_every_answer, needs_people
from everlearn.errors import ConfigError, NotFound
from everlearn.graders import Criterion, FeedbackGrader, Grader, Multi, PairwiseModel, RubricModel
from everlearn.opinion import Scale
from everlearn.people import Comments, FeedbackRule, Trust
from everlearn.rules import (
    Champion,
    DriftRules,
    GateRules,
    Heldout,
    Judges,
    Labels,
    ReleaseRules,
    Train,
)
from everlearn.schedule import Schedule
from everlearn.yaml_file import describe, read_yaml

log = logging.getLogger(__name__)
_NAMES = re.compile(r"`([^`]+)`|(\w+)")
"""Of a reward's formula."""


class Task(Section):
    """One learning loop."""

    task: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")
    """The model name clients send."""
    base_model: str
    """A folder (relative to the config file) or a hub id."""
    served_base: str = ""
    """The base model's name at the upstream; empty: base_model as written."""
    upstream: str
    """Which upstream of the config serves the base model and the versions trained from it."""
    champion: Champion | None = None
    """Who answers before the first promotion, and is gone back to; empty: the base model."""
    graders: tuple[Grader, ...] = ()
    """What is measured, on every answer where it can be."""
    reward: Multi | None = None
    """RFT's reward; default: the mean of the deterministic graders."""
    feedback: dict[str, FeedbackRule] = {}
    """Scales by name of feedback; thumbs are binary, stars and rating 1 to 5, nps 0 to 10, portkey
    -10 to 10, any other name 0 to 1."""
    trust: Trust = Trust()
    labels: Labels = Labels()
    comments: Comments | None = None
    """Comments teach; empty: they are kept, and teach nothing."""
    judges: Judges = Judges()
    heldout: Heldout = Heldout()
    train: Train = Train()
    gate: GateRules = GateRules()
    release: ReleaseRules = ReleaseRules()
    drift: DriftRules = DriftRules()
    schedule: Schedule = Schedule()
    folder: Path = Path()
    """Folder of the task file; its relative paths start there."""

    @property
    def base_name(self) -> str:
        return self.served_base or self.base_model

    @property
    def scales(self) -> dict[str, Scale]:
        """Scales by name of feedback, as declared."""
        return {name: rule.scale for name, rule in self.feedback.items()}

    @property
    def signals(self) -> dict[str, FeedbackRule]:
        """What people do and the task reads as a word on the answer, by name."""
        return {name: rule for name, rule in self.feedback.items() if rule.means is not None}

    @property
    def every_grader(self) -> "tuple[Grader, ...]":
        """The reward included."""
        return (*self.graders, self.reward) if self.reward else self.graders

    def grader(self, name: str) -> "Grader":
        """The grader of that name, the reward included; NotFound otherwise."""
        for grader in self.every_grader:
            if grader.name == name:
                return grader
        known = ", ".join(grader.name for grader in self.graders)
        raise NotFound(f"task {self.task}: no grader {name!r}; there are: {known or 'none'}")

    @property
    def release_rules(self) -> ReleaseRules:
        """With the co-primary metric by its name; none where the primary needs nobody's answer."""
        name = self.release.co_primary
        if name == "auto":
            asked = needs_people(self.grader(self.release.primary), self.graders)
            written = [each for each in self.graders if each.name not in self.judges.drafted]
            name = first_on_every_answer(written) if asked else None
        return self.release.model_copy(update={"co_primary": name})

    @property
    def believes_raters(self) -> bool:
        """Whether a release would rest on those alone who answer."""
        asked = needs_people(self.grader(self.release.primary), self.graders)
        return asked and self.release_rules.co_primary is None

    @model_validator(mode="after")
    def _co_primary(self) -> "Task":
        name = self.release.co_primary
        if name is None or name == "auto":
            return self
        fit = [each.name for each in self.graders if not needs_people(each, self.graders)]
        if name not in fit or name == self.release.primary:
            raise ValueError(
                f"release.co_primary {name!r} is no other grader that judges every answer without "
                "a person; there are: "
                f"{', '.join(each for each in fit if each != self.release.primary) or 'none'}"
            )
        return self

    @model_validator(mode="after")
    def _labelled_primary(self) -> "Task":
        primary = self.release.primary
        known = [each.name for each in self.every_grader]
        if self.release.labels is None or primary not in known:
            return self
        if needs_people(self.grader(primary), self.graders):
            fit = [each.name for each in self.graders if not needs_people(each, self.graders)]
            raise ValueError(
                f"release.labels corrects a grader that judges every answer without a person, and "
                f"release.primary {primary!r} waits for people: users who answer are no sample by "
                f"chance; there are: {', '.join(fit) or 'none'}"
            )
        return self

    @model_validator(mode="after")
    def _shadow_judge(self) -> "Task":
        asked = self.release.shadow_pairs
        if asked is None:
            return self
        fit = [each.name for each in self.graders if isinstance(each, PairwiseModel)]
        if asked.judge not in fit:
            raise ValueError(
                f"release.shadow_pairs.judge {asked.judge!r} is no pairwise_model grader of the "
                f"task; there are: {', '.join(fit) or 'none'}"
            )
        if self.release.goal == "not_worse":
            raise ValueError(
                "release.shadow_pairs asks who is better: it belongs to goal: better; leave it "
                "out, or name what the pairs are to show as the goal"
            )
        return self

    @property
    def criteria(self) -> tuple[Criterion, ...]:
        """What labellers are asked beside the whole."""
        rubrics = {each.name: each for each in self.graders if isinstance(each, RubricModel)}
        name = self.labels.rubric
        return () if name is None else rubrics[name].criteria

    @model_validator(mode="after")
    def _rubric(self) -> "Task":
        known = [each.name for each in self.graders if isinstance(each, RubricModel)]
        if self.labels.rubric is not None and self.labels.rubric not in known:
            raise ValueError(
                f"labels.rubric {self.labels.rubric!r} is no rubric_model grader of the task; "
                f"there are: {', '.join(known) or 'none'}"
            )
        return self

    @model_validator(mode="after")
    def _names(self) -> "Task":
        names = [grader.name for grader in self.graders]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"graders: name used twice: {', '.join(sorted(twice))}")
        known = {*names, *([self.reward.name] if self.reward else [])}
        formulas = [each for each in self.every_grader if isinstance(each, Multi)]
        parts = {name for each in formulas for name in each.graders}
        live = {"error_rate", "latency_p95", "cost"}
        taken = sorted(known & {*live, "latency"})
        if taken:
            raise ValueError(f"graders: {taken[0]} is the name of a metric that needs no grader")
        for key, value, allowed in (
            ("release.primary", self.release.primary, known),
            ("heldout.grader", self.heldout.grader, known),
            *(("train.verdicts", name, known) for name in self.train.verdicts),
            ("comments.grader", self.comments and self.comments.grader, known),
            *(("release.guardrails", name, known | live) for name in self.release.guardrails),
            *(("judges.trusted", name, known | parts) for name in self.judges.trusted),
            *(("judges.drafted", name, known) for name in self.judges.drafted),
        ):
            if value is not None and value not in allowed:
                raise ValueError(
                    f"{key} {value!r} is not a grader of the task; "
                    f"there are: {', '.join(sorted(allowed))}"
                )
        return self


def heldout_grader(task: Task) -> str:
    """The grader of held-out answers: the task's own choice, else the release's primary.

    ConfigError when that is feedback: nobody has said anything about a candidate's answers.
    """
    name = task.heldout.grader or task.release.primary
    if isinstance(task.grader(name), FeedbackGrader):
        others = [grader.name for grader in task.graders if not isinstance(grader, FeedbackGrader)]
        raise ConfigError(
            f"task {task.task}: heldout.grader = {name!r}: feedback cannot grade answers that "
            f"nobody has seen; name one of: {', '.join(others) or 'none: declare a grader'}"
        )
    return name


def load_task_file(path: Path) -> Task:
    """The task in `path`; ConfigError with one line per problem."""
    try:
        return Task(**{"folder": path.resolve().parent, **read_yaml(path)})
    except ValidationError as error:
        raise ConfigError(describe(error, str(path), Task)) from error


class Declared(NamedTuple):
    """What the files of `tasks_dir` came to: a broken one stops its own task only."""

    tasks: dict[str, Task]
    problems: tuple[str, ...]
    """Why a file declares none, a line each."""
    notes: tuple[str, ...]
    """What is no error, and may be meant otherwise."""


def read_tasks(service: Service) -> Declared:
    """Every task that a file declares, by name, and what is wrong with the other files."""
    tasks: dict[str, Task] = {}
    problems: list[str] = []
    for path in sorted(service.tasks_path.glob("*.yaml")):
        try:
            task = load_task_file(path)
            _check(service, task, path, tasks)
        except ConfigError as error:
            problems += str(error).splitlines()
        else:
            tasks[task.task] = task
    notes = (
        *_notes(service.tasks_path),
        *_never_released(service, tasks),
        *_unwatched(tasks),
    )
    return Declared(tasks, tuple(problems), notes)


def load_tasks(service: Service) -> dict[str, Task]:
    """Every task of `tasks_dir`, by name; ConfigError where any file is wrong."""
    found = read_tasks(service)
    if found.problems:
        raise ConfigError("\n".join(found.problems))
    return found.tasks


def running_tasks(service: Service) -> dict[str, Task]:
    """For a process that goes on: the tasks that are declared, the others said in its log."""
    found = read_tasks(service)
    for problem in found.problems:
        log.error("a task is left out: %s", problem)
    for note in found.notes:
        log.warning("%s", note)
    return found.tasks


def tasks_stamp(service: Service) -> tuple[object, ...]:
    """Changes when a task file comes, goes or is written."""
    try:
        entries = [(item.name, item.stat()) for item in os.scandir(service.tasks_path)]
    except OSError:
        return ()
    return tuple(sorted((name, stat.st_mtime_ns, stat.st_size) for name, stat in entries))


def _notes(folder: Path) -> Iterator[str]:
    if not folder.is_dir():
        yield f"tasks_dir: {folder} is no folder: there are no tasks"
    for path in sorted(folder.glob("*.yml")):
        yield f"{path} is not read: name it {path.stem}.yaml"


def _never_released(service: Service, tasks: Mapping[str, Task]) -> Iterator[str]:
    for name, task in tasks.items():
        kind = service.upstreams[task.upstream].kind
        if kind != "vllm":
            yield (
                f"task {name}: upstream {task.upstream!r} is of kind {kind}, which loads no "
                "adapters: the task is captured and judged, and what it trains is never served"
            )


def _unwatched(tasks: Mapping[str, Task]) -> Iterator[str]:
    for name, task in tasks.items():
        if task.train.method != "rft" or task.reward is None:
            continue
        held = task.heldout.grader or task.release.primary
        if held in {a or b for a, b in _NAMES.findall(task.reward.calculate_output)}:
            yield (
                f"task {name}: heldout.grader {held!r} is part of the reward: nobody watches an "
                "RFT run for reward hacking; name a grader there that the reward does not read"
            )


def _check(service: Service, task: Task, path: Path, others: Mapping[str, Task]) -> None:
    """What a task needs of the config and of the other files."""
    if task.task in others:
        raise ConfigError(f"{path}: task = {task.task!r}: already declared by another file")
    if task.upstream not in service.upstreams:
        known = ", ".join(sorted(service.upstreams)) or "none is configured"
        raise ConfigError(
            f"{path}: upstream = {task.upstream!r}: not an upstream of the config: {known}"
        )
    if task.comments is not None and task.comments.judge.upstream not in service.upstreams:
        known = ", ".join(sorted(service.upstreams))
        raise ConfigError(
            f"{path}: comments.judge.upstream = {task.comments.judge.upstream!r}: not an upstream "
            f"of the config: {known}"
        )
    most = service.upstreams[task.upstream].max_lora_rank
    if most is not None and task.train.lora.r > most:
        raise ConfigError(
            f"{path}: train.lora.r = {task.train.lora.r}: upstreams.{task.upstream}.max_lora_rank "
            f"is {most}; train a smaller rank, or start that server with a larger --max-lora-rank"
        )
    _check_champion(service, task, path)


def _check_champion(service: Service, task: Task, path: Path) -> None:
    """What a champion elsewhere and a cost that decides need of the upstreams."""
    own = service.upstreams[task.upstream]
    names = [task.upstream, *([task.champion.upstream] if task.champion else [])]
    if task.champion is not None:
        if names[1] not in service.upstreams:
            known = ", ".join(sorted(service.upstreams))
            raise ConfigError(
                f"{path}: champion.upstream = {names[1]!r}: not an upstream of the config: {known}"
            )
        if own.kind != "vllm":
            raise ConfigError(
                f"{path}: upstream = {task.upstream!r}: is of kind {own.kind}, which cannot load "
                "the adapters that would replace the champion; name one of kind vllm"
            )
    if "cost" in task.release.metrics:
        for name in dict.fromkeys(names):
            if service.upstreams[name].price is None:
                raise ConfigError(
                    f"{path}: release: the cost of an answer decides, but upstreams.{name} has no "
                    "price; give it price: {prompt_per_million, completion_per_million} or "
                    "{per_replica_hour}"
                )


def load_task(service: Service, name: str) -> Task:
    """The task of that name; ConfigError where its file may be a broken one, NotFound with the
    names that exist."""
    found = read_tasks(service)
    if name in found.tasks:
        return found.tasks[name]
    if found.problems:
        raise ConfigError("\n".join(found.problems))
    known = ", ".join(sorted(found.tasks)) or f"none in {service.tasks_path}"
    notes = "".join(f"; {note}" for note in _notes(service.tasks_path))
    raise NotFound(f"task {name!r} does not exist; there are: {known}{notes}")


def base_model_path(service: Service, task: Task) -> str:
    """The base model as transformers loads it: a folder relative to the config, else the hub id."""
    folder = (service.root / task.base_model).resolve()
    return str(folder) if folder.is_dir() else task.base_model

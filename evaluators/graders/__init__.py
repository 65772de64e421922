"""From a grader's definition to an evaluator; one file per type beside this one."""

from typing import Any

from evaluators.formula import Formula
from evaluators.graders import (
    code,
    command,
    endpoint,
    execution,
    feedback,
    json_schema,
    model,
    python,
    string_check,
    text_similarity,
    verdicts,
)
from evaluators.graders import multi as multi_grader
from evaluators.graders.base import Base
from evaluators.judge.budget import budget_of
from evaluators.judge.guidelines import guidelines
from everlearn.config import Sandbox, Service
from everlearn.errors import ConfigError
from everlearn.graders import (
    CommandExecution,
    Endpoint,
    Execution,
    FeedbackGrader,
    Grader,
    JsonSchema,
    LabelModel,
    Multi,
    PairwiseModel,
    PythonExecution,
    PythonGrader,
    RubricModel,
    ScoreModel,
    StringCheck,
    TextSimilarity,
)
from everlearn.task import Task

MAX_DEPTH = 8
"""Of formulas over formulas; deeper is a circle."""


def build(spec: Grader, task: Task, service: Service | None = None) -> Base[Any]:
    """The evaluator of `spec`; ConfigError with one line when the definition does not compile.

    Without `service` a judge model is built but cannot be asked.
    """
    return _build(spec, task, service, MAX_DEPTH)


def build_all(task: Task, service: Service | None = None) -> list[Base[Any]]:
    """Every grader of the task, the reward included."""
    return [build(spec, task, service) for spec in _specs(task)]


def check(task: Task, service: Service | None = None) -> None:
    """ConfigError with one line per grader of the task that does not compile."""
    problems = []
    for spec in _specs(task):
        try:
            build(spec, task, service)
        except ConfigError as error:
            problems.append(f"task {task.task}: {error}")
    if problems:
        raise ConfigError("\n".join(problems))


def _specs(task: Task) -> list[Grader]:
    return list(task.every_grader)


def _build(spec: Grader, task: Task, service: Service | None, depth: int) -> Base[Any]:
    match spec:
        case StringCheck():
            return string_check.StringCheckGrader(spec)
        case TextSimilarity():
            return text_similarity.TextSimilarityGrader(spec, service, budget_of(task, service))
        case JsonSchema():
            return json_schema.JsonSchemaGrader(spec)
        case Execution():
            return execution.ExecutionGrader(spec, task.folder, _rules(service))
        case PythonExecution():
            return code.CodeGrader(spec, _rules(service))
        case CommandExecution():
            return command.CommandGrader(spec, task.folder, _rules(service))
        case FeedbackGrader():
            # The scale is part of the definition: another one gives other verdicts.
            scale = spec.scale or task.scales.get(spec.feedback)
            return feedback.FeedbackGrader(spec.model_copy(update={"scale": scale}))
        case PythonGrader():
            return python.PythonGrader(spec, _rules(service))
        case ScoreModel():
            text = guidelines(spec, task.folder)
            return model.ScoreModelGrader(spec, service, budget_of(task, service), text)
        case LabelModel():
            text = guidelines(spec, task.folder)
            return model.LabelModelGrader(spec, service, budget_of(task, service), text)
        case Endpoint():
            return endpoint.EndpointGrader(spec)
        case PairwiseModel():
            text = guidelines(spec, task.folder)
            return verdicts.PairwiseGrader(spec, service, budget_of(task, service), text)
        case RubricModel():
            text = guidelines(spec, task.folder)
            return verdicts.RubricGrader(spec, service, budget_of(task, service), text)
        case Multi():
            return _multi(spec, task, service, depth)


def _rules(service: Service | None) -> Sandbox:
    return Sandbox() if service is None else service.sandbox


def _multi(spec: Multi, task: Task, service: Service | None, depth: int) -> Base[Any]:
    where = f"grader {spec.name}: calculate_output"
    formula = Formula(spec.calculate_output, where)
    if depth == 0:
        raise ConfigError(f"{where}: {spec.calculate_output!r} reads itself")
    if not formula.names:
        raise ConfigError(f"{where}: {spec.calculate_output!r} reads no grader")
    parts = {}
    for name in formula.names:
        part = _part(spec, name, task, where)
        parts[name] = _build(part, task, service, depth - 1)
    return multi_grader.MultiGrader(spec, formula, parts)


def _part(spec: Multi, name: str, task: Task, where: str) -> Grader:
    if name in spec.graders:
        return spec.graders[name]
    known = sorted(spec.graders) or [grader.name for grader in task.graders]
    found = {} if spec.graders else {part.name: part for part in _specs(task)}
    if name in found:
        return found[name]
    raise ConfigError(
        f"{where}: {spec.calculate_output!r}: no grader {name!r}; there are: "
        f"{', '.join(known) or 'none'}"
    )

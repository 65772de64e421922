"""The grader routes of the OpenAI format as plain functions: one answer, one grader, one report.

What it costs comes out of a task's money for judges, where a task has a limit (`payer`).
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evaluators.definition import standalone
from evaluators.graders import build
from evaluators.score import score
from evaluators.types import Item, Sample, Score
from everlearn.config import Service
from everlearn.errors import InputError
from everlearn.graders import Grader, Judging, Multi, TextSimilarity
from everlearn.rules import Judges
from everlearn.task import Task

_ERRORS = (
    "formula_parse_error", "invalid_variable_error", "model_grader_parse_error",
    "model_grader_refusal_error", "model_grader_server_error", "other_error",
    "python_grader_runtime_error", "python_grader_server_error", "sample_parse_error",
    "truncated_observation_error", "unresponsive_reward_error",
)  # fmt: skip


async def run_grader(
    spec: Grader,
    item: Item,
    model_sample: str | Mapping[str, Any],
    folder: Path,
    service: Service | None = None,
    *,
    paid_by: Task | None = None,
) -> dict[str, Any]:
    """`{reward, sub_rewards, metadata, model_grader_token_usage_per_model}`.

    `reward` is null when the answer stays unscored; `metadata` says why in `errors`, `reason`.
    """
    task = standalone(spec, folder)
    if paid_by is not None:
        rules = Judges(max_cost_per_day=paid_by.judges.max_cost_per_day)
        task = task.model_copy(update={"task": paid_by.task, "judges": rules})
    evaluator = build(spec, task, service)
    started = time.monotonic()
    try:
        verdict = await score(evaluator, parse_sample(model_sample), item)
    finally:
        await evaluator.aclose()
    return {
        "reward": verdict.value,
        "sub_rewards": dict(verdict.sub_scores),
        "metadata": {
            "name": spec.name,
            "type": spec.type,
            "errors": _errors(spec, verdict),
            "reason": verdict.error or verdict.reason,
            "label": verdict.label,
            "execution_time": round(time.monotonic() - started, 6),
            "scores": {spec.name: verdict.value, **verdict.sub_scores},
            "token_usage": _tokens(verdict) or None,
            "sampled_model_name": getattr(spec, "model", None),
        },
        "model_grader_token_usage_per_model": _usage(spec, verdict),
    }


def payer(spec: Grader, tasks: Mapping[str, Task]) -> Task | None:
    """Whose money for judges a grader that stands in no task spends: of the tasks with a limit the
    first that asks a model of the grader's, else the first; None where none has a limit."""
    limited = [
        tasks[name] for name in sorted(tasks) if tasks[name].judges.max_cost_per_day is not None
    ]
    asked = _every_model(spec)
    for task in limited:
        if any(asked & _every_model(each) for each in task.every_grader):
            return task
    return limited[0] if limited else None


def _every_model(spec: Grader) -> set[str]:
    """Embedding models too."""
    if isinstance(spec, TextSimilarity) and spec.embedding_model is not None:
        return {spec.embedding_model}
    if isinstance(spec, Multi):
        return {model for part in spec.graders.values() for model in _every_model(part)}
    return _models(spec)


def parse_sample(value: str | Mapping[str, Any]) -> Sample:
    """A sample from its text, or from an object with output_text, choices and output_tools."""
    if isinstance(value, str):
        return Sample(value)
    text = value.get("output_text")
    choices, tools = value.get("choices"), value.get("output_tools")
    if not (isinstance(text, str) and all(isinstance(x, list | None) for x in (choices, tools))):
        raise InputError("sample: output_text is a text; choices and output_tools are lists")
    return Sample(text, _known(choices), _known(tools))


def _known(given: list[Any] | None) -> tuple[Any, ...] | None:
    return None if given is None else tuple(given)


def _errors(spec: Grader, verdict: Score) -> dict[str, Any]:
    """The format's flags; exactly one is true when the grader gave no value."""
    flags: dict[str, Any] = dict.fromkeys(_ERRORS, False)
    kind = None if verdict.value is not None else _kind(spec, verdict)
    for detailed in ("model_grader_server_error", "python_grader_runtime_error"):
        flags[f"{detailed}_details"] = verdict.error if kind == detailed else None
    return flags if kind is None else {**flags, kind: True}


def _kind(spec: Grader, verdict: Score) -> str:
    if verdict.error is None:
        return "invalid_variable_error"
    if spec.type == "python":
        return "python_grader_runtime_error"
    if isinstance(spec, Judging):
        if "refused" in verdict.error:
            return "model_grader_refusal_error"
        parse = "judge's" in verdict.error or "gave no number" in verdict.error
        return "model_grader_parse_error" if parse else "model_grader_server_error"
    return "other_error"


def _tokens(verdict: Score) -> int:
    return int(sum(verdict.cost.get(key, 0) for key in ("prompt_tokens", "completion_tokens")))


def _usage(spec: Grader, verdict: Score) -> dict[str, Any]:
    """Tokens by judge model; of a multi grader only where it asks a single one."""
    models = sorted(_models(spec))
    if len(models) != 1 or not _tokens(verdict):
        return {}
    prompt, completion = (
        int(verdict.cost.get(key, 0)) for key in ("prompt_tokens", "completion_tokens")
    )
    usage = {"prompt_tokens": prompt, "completion_tokens": completion}
    return {models[0]: {**usage, "total_tokens": prompt + completion}}


def _models(spec: Grader) -> set[str]:
    if isinstance(spec, Judging):
        return {spec.model}
    if isinstance(spec, Multi):
        return {model for part in spec.graders.values() for model in _models(part)}
    return set()

"""The task's graders as a plain function of (rows, answers): RFT's reward and held-out scores.

An answer given again to the same prompt is not graded again: the samples of a prompt repeat, so
most of the work is saved.
"""

from collections.abc import Callable, Sequence
from typing import Any

from everlearn.chat import split_thinking
from everlearn.config import Service
from everlearn.graders import (
    Execution,
    JsonSchema,
    Multi,
    PythonGrader,
    StringCheck,
    TextSimilarity,
)
from everlearn.task import Task
from trainer.rows import Row

_DETERMINISTIC = (Execution, JsonSchema, PythonGrader, StringCheck, TextSimilarity)

Verdict = tuple[float | None, dict[str, float | None]]
"""Value and sub-scores."""


class Grading:
    """One grader of a task, by name or as given, with a memory of what it graded."""

    def __init__(self, task: Task, service: Service, grader: Any) -> None:
        from evaluators.graders import build

        self._evaluator = build(grader, task, service)
        self._known: dict[tuple[str, str], Verdict] = {}

    def close(self) -> None:
        """End child processes and connections."""
        from evaluators.bulk import in_background

        in_background(self._evaluator.aclose())

    def __call__(self, rows: Sequence[Row], answers: Sequence[str]) -> list[float | None]:
        """The values; None = unscored."""
        return [value for value, _ in self.detailed(rows, answers)]

    def detailed(self, rows: Sequence[Row], answers: Sequence[str]) -> list[Verdict]:
        """Values with the sub-scores of a multi grader."""
        from evaluators.bulk import grade_all
        from evaluators.types import Sample

        marks = [(row.row_hash, text) for row, text in zip(rows, answers, strict=True)]
        items = dict(zip(marks, rows, strict=True))
        new = [mark for mark in items if mark not in self._known]
        if new:
            pairs = [(Sample(output_text=mark[1]), item(items[mark])) for mark in new]
            for mark, scores in zip(new, grade_all([self._evaluator], pairs), strict=True):
                self._known[mark] = (scores[0].value, dict(scores[0].sub_scores or {}))
        return [self._known[mark] for mark in marks]


def item(row: Row) -> dict[str, Any]:
    """What graders may know of a row: the prompt and the right answer."""
    from everlearn.prompts import last_user_text

    return {
        "messages": list(row.messages),
        "prompt": last_user_text(row.messages),
        "reference": row.target,
        "metadata": {},
    }


def reward_grader(task: Task) -> Multi | None:
    """The task's reward; by default the mean of its deterministic graders; None without any."""
    if task.reward is not None:
        return task.reward
    names = [grader.name for grader in task.graders if isinstance(grader, _DETERMINISTIC)]
    if not names:
        return None
    formula = f"({' + '.join(names)}) / {len(names)}"
    return Multi(type="multi", name="reward", calculate_output=formula)


def neutral(values: Sequence[float | None], groups: Sequence[str]) -> list[float]:
    """Unscored is no zero: such a sample gets its group's mean, so it pulls in no direction."""
    sums: dict[str, list[float]] = {}
    for value, group in zip(values, groups, strict=True):
        if value is not None:
            sums.setdefault(group, []).append(value)
    means = {group: sum(known) / len(known) for group, known in sums.items()}
    return [
        means.get(group, 0.0) if value is None else value
        for value, group in zip(values, groups, strict=True)
    ]


RewardFunction = Callable[..., list[float]]


def trl_reward(grading: Grading, rows: Sequence[Row]) -> RewardFunction:
    """The reward in TRL's form: the dataset column `row` says which row a sample answers."""

    def reward(
        prompts: Any, completions: Sequence[Any], row: Sequence[int], **options: Any
    ) -> list[float]:
        texts = [split_thinking(each)[1].strip() for each in completions]
        verdicts = grading.detailed([rows[index] for index in row], texts)
        log_metric = options.get("log_metric")
        if log_metric is not None:
            for name, value in component_means(verdicts).items():
                log_metric(f"reward/{name}", value)
        return neutral([value for value, _ in verdicts], [str(index) for index in row])

    return reward


def component_means(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Mean of every sub-score, and the share left unscored."""
    found: dict[str, list[float]] = {}
    for _, parts in verdicts:
        for name, value in parts.items():
            if value is not None:
                found.setdefault(name, []).append(value)
    means = {name: sum(values) / len(values) for name, values in found.items()}
    unscored = sum(value is None for value, _ in verdicts) / max(1, len(verdicts))
    return {**means, "unscored": unscored}

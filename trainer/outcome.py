"""What a run came to, for people and for the run's record."""

import random
from dataclasses import dataclass
from typing import Any

from everlearn.errors import NotEnoughEvidence
from everlearn.task import Task, heldout_grader
from registry.erasure import NOBODY
from registry.versions import ModelVersion
from trainer import adapter as adapters
from trainer.evidence import Exam, mean
from trainer.methods import TrainingData
from trainer.plan import Plan
from trainer.rows import Row


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run came to; scores are means of the held-out grader, times are seconds."""

    task: str
    run_id: str
    snapshot_id: str
    method: str
    reason: str
    finding: str | None
    """Why the version may not pass the gate."""
    version: str
    model_name: str
    champion: dict[str, Any]
    tried: list[dict[str, Any]]
    left_out: dict[str, str]
    counts: dict[str, dict[str, int]]
    seconds: float


def check_scored(exam: Exam, task: Task) -> None:
    """NotEnoughEvidence when the grader is silent on every answer that methods are chosen by."""
    if exam.scores and all(score is None for score in exam.scores):
        raise NotEnoughEvidence(
            f"task {task.task}: grader {heldout_grader(task)} scored none of {len(exam.scores)} "
            "select answers; no version was made"
        )


def standing(name: str, rows: list[Row], exam: Exam, seconds: float) -> dict[str, Any]:
    """One line of the comparison: all held-out rows, and those an expert reviewed."""
    expert = [score for row, score in zip(rows, exam.scores, strict=True) if row.author == "expert"]
    return {
        "name": name,
        "heldout": mean(exam.scores),
        "rows": len(exam.scores),
        "heldout_expert": mean(expert),
        "expert_rows": len(expert),
        "seconds": round(seconds, 1),
    }


def describe(rows: list[Row], exam: Exam) -> str:
    """The same for people."""
    line = standing("", rows, exam, 0.0)

    def shown(key: str) -> str:
        return "unscored" if line[key] is None else f"{line[key]:.1%}"

    return (
        f"held-out {shown('heldout')} of {line['rows']} rows, "
        f"expert-reviewed {shown('heldout_expert')} of {line['expert_rows']}"
    )


def run_params(task: Task, plan: Plan, champion: ModelVersion) -> dict[str, Any]:
    """What the run is made of, for MLflow."""
    shape = {f"lora.{key}": value for key, value in task.train.lora.model_dump().items()}
    counts = {f"rows.{side}": sum(found.values()) for side, found in plan.snapshot.counts.items()}
    return {
        **task.train.model_dump(exclude={"lora"}),
        **shape,
        **counts,
        "method": plan.method,
        "base_model": task.base_model,
        "champion": champion.version,
        "snapshot_id": plan.snapshot.snapshot_id,
        "heldout_grader": heldout_grader(task),
    }


def probe_prompts(data: TrainingData, seed: int) -> list[adapters.Prompt]:
    """A few prompts of the training side, such as a server can be asked by messages alone, and one
    that is nobody's."""
    every = [*data.learned, *data.replay]
    rows = [row for row in every if not row.tools and not row.options] or every
    picked = random.Random(seed).sample(rows, min(adapters.PROBES, len(rows)))
    return [*((row.completion_id, row.messages) for row in picked), (NOBODY, adapters.GREETING)]

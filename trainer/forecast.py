"""What an RFT run would be, before it starts: prompts, grader, time and memory.

The grader is tried on a few logged answers, so that one which cannot score says so now.
"""

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from everlearn.config import Service
from everlearn.errors import NotEnoughEvidence
from trainer.looks import unwatched
from trainer.methods import TrainingData, rft
from trainer.reward import Grading, needs_reference, reward_grader
from trainer.rows import Row
from trainer.settings import estimate
from trainer.workbench import Workbench

TRIED = 8
"""Logged answers that the grader is tried on; none where it asks a model."""


def forecast(
    data: TrainingData, select: Sequence[Row], bench: Workbench, service: Service
) -> dict[str, Any] | None:
    """For `--dry-run`; None when there is nothing to be rewarded by or too few prompts."""
    reward = reward_grader(bench.task)
    if reward is None:
        return None
    try:
        rows, _ = rft.fitting(data, bench)
    except NotEnoughEvidence:
        return None
    load = rft.load(rows, bench)
    made = bench.settings("rft", load)
    return {
        "prompts": len(rows),
        "of": len(rft.prompts(data)),
        "grader": f"{reward.name} = {reward.calculate_output}",
        "needs_reference": needs_reference(bench.task, reward),
        "takes": estimate(made, bench.shape, bench.machine, load),
        "answers": made.max_steps * load.batch,
        "unwatched": unwatched(bench.task, select),
        "tried": tried(Grading(bench.task, service, reward), rows),
    }


def tried(grading: Grading, rows: list[Row]) -> dict[str, Any]:
    """What the grader says about logged answers, how long it takes, and why it is silent."""
    answered = [row for row in rows if row.completion.strip()][: 0 if grading.slow else TRIED]
    started = time.monotonic()
    try:
        verdicts = grading.detailed(answered, [row.completion for row in answered])
    finally:
        grading.close()
    scored = [each.value for each in verdicts if each.value is not None]
    return {
        "answers": len(answered),
        "scored": len(scored),
        "mean": sum(scored) / len(scored) if scored else None,
        "seconds": round(time.monotonic() - started, 2),
        "reasons": dict(Counter(each.reason for each in verdicts if each.value is None)),
    }


def lines(found: dict[str, Any]) -> list[str]:
    """The same for people."""
    need = "compares with a right answer" if found["needs_reference"] else "needs no right answer"
    said = [
        f"rft asks {found['prompts']} of {found['of']} prompts, rewarded by {found['grader']}, "
        f"which {need}",
        f"rft takes {found['takes']}, {found['answers']} answers are graded",
    ]
    if found["unwatched"]:
        said.append(f"nobody watches for reward hacking: {found['unwatched']}")
    sample = found["tried"]
    if sample["answers"]:
        mean = "" if sample["mean"] is None else f", mean {sample['mean']:.2f}"
        why = "; ".join(f"{count} x {reason}" for reason, count in sample["reasons"].items())
        said.append(
            f"the grader scored {sample['scored']} of {sample['answers']} logged answers{mean} "
            f"in {sample['seconds']:.2f} s" + (f": {why}" if why else "")
        )
    return said

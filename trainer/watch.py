"""A training callback that keeps, sends and shows what is logged, and stops at what is no number.

`reward` keeps its plain name beside the method's, for one curve over all runs.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from everlearn.errors import TrainingError
from trainer.progress import Update
from trainer.tracking import Metrics

SILENT = ("epoch", "clip_ratio/", "rewards/")
"""Beginnings of names that say nothing here, a quarter of what is sent: a run is one epoch, its
answers are of the weights that learn from them, and the reward has a name of its own."""

Send = Callable[[Metrics], None]


def entries(method: str, logs: Mapping[str, Any], step: int) -> Metrics:
    """What was logged at a step, as metrics; TrainingError when the loss is no number."""
    found: Metrics = []
    for name, value in logs.items():
        if not isinstance(value, int | float) or name.startswith(SILENT):
            continue
        if math.isfinite(value):
            found.append((f"{method}/{name}", float(value), step))
            if name == "reward":
                found.append((name, float(value), step))
        elif name in ("loss", "grad_norm"):
            raise TrainingError(f"{method}: {name} is {value} at step {step}: nothing is kept")
    return found


def watching(method: str, update: Update, send: Send | None) -> Any:
    """The callback; `metrics` has all that was logged."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.metrics: Metrics = []

        def on_log(
            self, args: Any, state: Any, control: Any, logs: Mapping[str, Any], **_: Any
        ) -> None:
            step = int(state.global_step)
            found = entries(method, logs, step)
            self.metrics += found
            if send is not None:
                send(found)
            if "loss" in logs:
                update(step, logs)

    return Watch()

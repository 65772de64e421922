"""What would be trained from a snapshot, and why or why not."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evaluators.fill import label_salt_of
from evaluators.judges import refusal as refusal_of
from evaluators.judges import unproven
from everlearn.errors import NotEnoughEvidence
from everlearn.lake.store import Lake
from everlearn.task import Task
from registry.lineage import lineage
from registry.versions import Registry
from trainer.early import forecast
from trainer.methods import Method, TrainingData
from trainer.methods.auto import NO_REWARD, allowed
from trainer.reward import needs_reference, reward_grader
from trainer.rows import BEST_OF, UNJUDGED
from trainer.snapshot import Refuses, Snapshot, freeze, load, renderable


@dataclass(frozen=True)
class Plan:
    """What would be trained and why; `refusal` says why nothing can be."""

    snapshot: Snapshot
    method: str
    methods: tuple[Method, ...]
    left_out: Mapping[str, str]
    """Why a method is not among them."""
    refusal: str | None
    champion: str = ""
    """Whose answers are replayed."""
    early_stop: str = ""
    """Which runs may end early, or why none does."""
    judged: Callable[[], str | None] = lambda: None
    """Why nothing can be learned from the reward now: a judge may lose its vote meanwhile."""
    by_schedule: bool = False
    """Nobody named a method or a snapshot: what has nothing to win is not trained."""

    @property
    def reason(self) -> str:
        """Why these methods."""
        if self.refusal is not None:
            return self.refusal
        if self.method != "auto":
            return f"{self.method} was asked for"
        names = ", ".join(method.name for method in self.methods)
        return f"the data allows {names}: cheapest first, select rows choose"

    def summary(self) -> dict[str, Any]:
        """For `--dry-run`."""
        return {
            "task": self.snapshot.task,
            "method": self.method,
            "would_train": [] if self.refusal else [method.name for method in self.methods],
            "left_out": dict(self.left_out),
            "reason": self.reason,
            "early_stop": self.early_stop,
            "counts": self.snapshot.counts,
        }

    def check(self) -> None:
        """NotEnoughEvidence when there is a refusal."""
        if self.refusal is not None:
            raise NotEnoughEvidence(
                f"task {self.snapshot.task}: {self.refusal}; no version was made"
            )


def plan(
    lake: Lake,
    task: Task,
    registry: Registry,
    *,
    salt: str,
    released: Collection[str] = (),
    method: str | None = None,
    snapshot_id: str | None = None,
    write: bool = True,
    refuses: Refuses | None = None,
) -> Plan:
    """Freeze or load the data and say what it allows. `method` None: the task's; `salt`: of the
    installation, for the split; `released`: from quarantine; `refuses`: what the base model's
    template cannot hold."""
    champion = registry.champion(task.task).version
    if snapshot_id is not None:
        snapshot = load(lake, snapshot_id, task.task)
        snapshot = replace(snapshot, rows=tuple(renderable(snapshot.rows, refuses)))
    else:
        snapshot = freeze(
            lake,
            task,
            champion=champion,
            salt=salt,
            released=released,
            write=write,
            refuses=refuses,
        )
    data = training_data(snapshot, task)
    name = method or task.train.method

    def judged() -> str | None:
        return unrewarded(lake, task, label_salt_of(salt))

    no_reward = judged()
    methods, left_out = allowed(
        data, only=name, has_reward=no_reward is None, unrewarded=no_reward or ""
    )
    refusal = too_little(snapshot, task, methods, left_out)
    # A retraining by schedule waits for news; whoever names a method or a snapshot does not.
    by_schedule = method is None and snapshot_id is None
    if refusal is None and by_schedule:
        refusal = nothing_new(lake, registry, snapshot, task)
    early_stop = forecast(task.train, snapshot.side("select"))
    return Plan(
        *(snapshot, name, tuple(methods), left_out, refusal, champion, early_stop, judged),
        by_schedule=by_schedule,
    )


def unrewarded(lake: Lake, task: Task, salt: str) -> str | None:
    """Why nothing can be learned from the task's reward."""
    rewarded = reward_grader(task)
    if rewarded is None:
        return NO_REWARD
    found = unproven(task, [rewarded], lambda: lake, lambda: salt)
    return f"reward: {refusal_of(task, found)}" if found else None


def training_data(snapshot: Snapshot, task: Task, served: Path | None = None) -> TrainingData:
    """What methods learn from; `served`: the champion's adapter."""
    rewarded = reward_grader(task)
    reference = rewarded is not None and needs_reference(task, rewarded)
    return TrainingData(tuple(snapshot.side("train")), reference, served)


def too_little(
    snapshot: Snapshot, task: Task, methods: list[Method], left_out: Mapping[str, str]
) -> str | None:
    """Why there is not enough to learn from or to be examined on."""
    if not methods:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        return f"too little to learn from: {reasons}{unusable(snapshot)}"
    found = len(snapshot.side("gate"))
    if found < task.gate.min_rows:
        return f"{found} rows for the exam < gate.min_rows {task.gate.min_rows}{unusable(snapshot)}"
    return None


def unusable(snapshot: Snapshot) -> str:
    """What most rows were dropped for, for people to see what to change."""
    reasons = Counter(snapshot.counts["dropped"]).most_common(3)
    listed = ", ".join(f"{count} {reason}" for reason, count in reasons)
    return f"; dropped: {listed}" if listed else ""


def nothing_new(lake: Lake, registry: Registry, snapshot: Snapshot, task: Task) -> str | None:
    """Why the judgements since the newest version are too few for another one."""
    judged = {
        row.completion_id
        for row in snapshot.rows
        if row.kind not in UNJUDGED and row.author != BEST_OF
    }
    query = (
        "SELECT completion_id FROM snapshot_rows WHERE kind NOT IN ('replay', 'prompt') "
        "AND snapshot_id = ?"
    )
    for version in reversed(registry.versions(task.task)):
        seen = lineage(registry, task.task, version.version).snapshots
        for snapshot_id in seen:
            judged -= set(lake.read(query, [snapshot_id]).column("completion_id").to_pylist())
        if seen:
            break
    needed = task.train.min_new_scores
    if len(judged) >= needed:
        return None
    return f"{len(judged)} newly judged answers < train.min_new_scores {needed}"

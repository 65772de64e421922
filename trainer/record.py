"""The record of a run: opened, taken up where its process died, closed with the reason for its end.

- A run of the same identity (task, data, champion, method, program) is taken up with its snapshot;
  any other one that was left is closed as killed.
- The state store hears of an end before MLflow does: MLflow may be what is away.
"""

from collections.abc import Callable
from typing import Any

from everlearn.config import Service
from everlearn.errors import EverlearnError, NotEnoughEvidence, NotFound, NothingLearned
from everlearn.task import Task
from trainer.lock import Held
from trainer.plan import Plan
from trainer.tracking import TrainingRun, close_dead
from trainer.workplace import Workplace, identity


def left_over(
    service: Service, task: Task, held: Held, planned: Callable[[str], Plan]
) -> Plan | None:
    """The plan of a run whose process died, where it can go on; None: there is nothing to take up.

    `planned` makes the plan for a snapshot."""
    if held.run is None:
        return None
    try:
        made = planned(held.run["snapshot_id"])
    except NotFound:
        return None
    return made if held.run["identity"] == _identity(service, task, made) else None


def opened(
    service: Service, task: Task, plan: Plan, held: Held, report: Callable[[str], None]
) -> tuple[TrainingRun, dict[str, Any] | None]:
    """The MLflow run, and what is known of it where a dead one is taken up."""
    left = held.run
    if left is None:
        return TrainingRun(service, task), None
    if left["identity"] == _identity(service, task, plan):
        report(f"run {left['run_id']} died: it is taken up, with snapshot {left['snapshot_id']}")
        return TrainingRun(service, task, left["run_id"]), left
    reason = "its process died, and task, data, champion or program have changed since"
    report(f"run {left['run_id']} is closed as killed: {reason}")
    close_dead(service, task, left["run_id"], reason)
    held.keep(None)
    return TrainingRun(service, task), None


def begun(service: Service, task: Task, plan: Plan, run: TrainingRun) -> dict[str, Any]:
    """What the next process must know of this run."""
    return {
        "run_id": run.run_id,
        "snapshot_id": plan.snapshot.snapshot_id,
        "method": plan.method,
        "identity": _identity(service, task, plan),
        "free_bytes": None,
    }


def _identity(service: Service, task: Task, plan: Plan) -> str:
    return identity(service, task, plan.snapshot, f"{plan.method} {plan.champion}")


def end(run: TrainingRun, held: Held, outcome: str, reason: str) -> None:
    """Close it."""
    held.ended(run.run_id, outcome)
    run.end(outcome, reason)


def over(place: Workplace, held: Held) -> None:
    """The run has ended: nothing of it is to be taken up."""
    held.keep(None)
    place.close()


def outcome_of(error: EverlearnError) -> str:
    """As the run's record names it."""
    if isinstance(error, NotEnoughEvidence):
        return "not_enough_evidence"
    return "nothing_learned" if isinstance(error, NothingLearned) else "failed"

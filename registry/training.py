"""How the training of a task stands: one document in the state store, which whoever trains writes
(`trainer.lock`) and anybody reads without asking MLflow.
"""

from typing import Any, NamedTuple

from everlearn.state import State

KIND = "training"
STALE_SECONDS = 60.0
"""Of silence, after which a holder elsewhere counts as dead."""


class Ended(NamedTuple):
    """A run that came to an end; a killed one did not."""

    run_id: str
    outcome: str
    """As the run's record names it: `registered`, `not_enough_evidence`, `nothing_learned`,
    `failed`."""
    ended_at: float
    seconds: float
    """In the process that ended it."""


class Training(NamedTuple):
    """Of one task."""

    running: bool
    """Somebody holds the lock and was heard of lately."""
    last: Ended | None


def read_training(state: State, task: str, now: float) -> Training:
    """As the store has it."""
    found = state.get(KIND, task)
    document: dict[str, Any] = {} if found is None else found[0]
    held = document.get("holder") is not None
    last = document.get("last")
    running = held and now - document["beat"] < STALE_SECONDS
    return Training(running, None if last is None else Ended(**last))

"""Raters whose quarantine an operator has ended, in the state store."""

import hashlib
from contextlib import closing

from everlearn.config import Service
from everlearn.state import StateConflict, open_state

KIND = "released_rater"


def released(service: Service, task: str) -> frozenset[str]:
    """Of the task."""
    with closing(open_state(service)) as state:
        return frozenset(
            str(document["rater"]) for _, document in state.all(KIND) if document["task"] == task
        )


def release(service: Service, task: str, rater: str) -> bool:
    """Believe this rater as one nobody knows; False if he was released before."""
    with closing(open_state(service)) as state:
        try:
            state.put(KIND, _key(task, rater), {"task": task, "rater": rater})
        except StateConflict:
            return False
    return True


def forget(service: Service, task: str, rater: str) -> bool:
    """Nothing is known of the rater any more; whether anything was."""
    with closing(open_state(service)) as state:
        return state.drop(KIND, _key(task, rater))


def _key(task: str, rater: str) -> str:
    """A rater's name may be longer than a key of the store."""
    return hashlib.sha256(f"{task}\x1f{rater}".encode(errors="surrogatepass")).hexdigest()

"""Which arm answers a unit. Pure: the same route, task and unit give the same arm anywhere.

- Held back or not is a hash of (task, unit) that no release changes.
- While a promotion is watched, more are held back by a hash of (release, stage, unit).
- Champion or challenger is a hash of (release, unit): a unit stays on the challenger as its share
  grows, and is drawn anew by the next release.
"""

from hashlib import blake2b
from typing import NamedTuple

from everlearn.events import Arm
from gateway.routes import TaskRoute


class Assignment(NamedTuple):
    """An arm and the probability it had."""

    arm: Arm
    probability: float
    """Of this arm among champion and challenger; for `holdback` the share by which it was drawn."""


def fraction(*parts: str) -> float:
    """A hash of the parts, uniform in [0, 1)."""
    digest = blake2b("\x1f".join(parts).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


_ALONE = Assignment("champion", 1.0)


def assign(route: TaskRoute, task: str, unit: str) -> Assignment:
    """The arm of `unit` under `route`."""
    if route.challenger is None and route.holdback is None:
        return _ALONE
    if route.holdback is not None:
        held = route.holdback_share
        if held > 0 and fraction("holdback", task, unit) < held:
            return Assignment("holdback", held)
        watched = route.watch_share
        if watched > 0 and fraction("watch", route.release or "", f"{route.stage}", unit) < watched:
            return Assignment("holdback", watched)
    share = route.challenger_share if route.challenger is not None else 0.0
    if share > 0 and fraction("release", route.release or task, unit) < share:
        return Assignment("challenger", share)
    return Assignment("champion", 1.0 - share)

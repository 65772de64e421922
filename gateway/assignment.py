"""Which arm answers whom. Pure: the same route, task and asker give the same arm anywhere.

- Held back or not is a hash of (task, user) that no release changes.
- Who else is drawn is the route's choice: the user, his conversation, or the request. What is drawn
  anew is a new unit, and its number (`draw`) is kept with the completion, so that evidence counts
  the very units that were assigned.
- Champion or challenger is a hash of (release, epoch, unit): a unit stays on the challenger as its
  share grows, and is drawn anew in the next epoch and by the next release.
- Of several challengers a hash chooses one for each unit, for the whole release and whoever of them
  is dropped; champion or that one is drawn as above. Who was drawn for one that was dropped is on
  the champion for certain, so the draw between the champion and any other is what it was.
- While a promotion is watched, more are held back by a hash of (release, stage, unit).
"""

from hashlib import blake2b
from typing import NamedTuple

from everlearn.events import Arm, Completion
from gateway.routes import TaskRoute


class Assignment(NamedTuple):
    """An arm and the probability it had."""

    arm: Arm
    probability: float
    """Of this arm among champion and challenger, or each one challenger of several; for `holdback`
    the share by which it was drawn."""
    which: int = 0
    """Of several challengers."""


def fraction(*parts: str) -> float:
    """A hash of the parts, uniform in [0, 1)."""
    return _place(_number(*parts))


ALONE = Assignment("champion", 1.0)
"""Where nothing is drawn, or the draw leaves no choice."""


def assign(route: TaskRoute, task: str, unit: str, drawn: str | None = None) -> Assignment:
    """The arm of `unit`, a user, under `route`; `drawn`: what `draw` says, by default of him alone
    in the first epoch."""
    if route.challenger is None and route.holdback is None and not route.challengers:
        return ALONE
    if route.holdback is not None:
        held = route.holdback_share
        if held > 0 and fraction("holdback", task, unit) < held:
            return Assignment("holdback", held)
    place = _place(drawn or _number(*_salt(route, task), unit))
    if route.holdback is not None and place < route.watch_share:
        return Assignment("holdback", route.watch_share)
    if route.challengers and route.watch_share <= 0:
        return _of_several(route, place)
    share = 0.0 if route.challenger is None or route.watch_share > 0 else route.challenger_share
    if place < share:
        return Assignment("challenger", share)
    return Assignment("champion", 1.0 - share)


def _of_several(route: TaskRoute, place: float) -> Assignment:
    count, share = len(route.challengers), route.challenger_share
    which = min(count - 1, int(place * count))
    pi = share / (share + count * (1.0 - share))
    if place * count - which >= share:
        return Assignment("champion", 1.0 - pi)
    if route.challengers[which] is None:
        return ALONE
    return Assignment("challenger", pi, which)


def draw(route: TaskRoute, draft: Completion) -> str | None:
    """The number of the unit that is drawn, its identity in the release; None: nobody is."""
    drawn = route.challenger is not None or route.challengers or route.watch_share > 0
    if route.unit is None or not drawn:
        return None
    return _number(*_salt(route, draft.task or "", draft.received_at), _who(route, draft))


def _salt(route: TaskRoute, task: str, at: float | None = None) -> tuple[str, ...]:
    if route.watch_share > 0:
        return "watch", route.release or "", f"{route.stage}"
    epoch = 0
    if at is not None and route.epoch_seconds > 0:
        epoch = max(0, int((at - route.since) // route.epoch_seconds))
    # The first epoch's is the release's alone.
    return ("release", route.release or task, *((f"{epoch}",) if epoch else ()))


def _who(route: TaskRoute, draft: Completion) -> str:
    """A conversation is its user's: two users may name theirs alike."""
    user, conversation = draft.unit or draft.completion_id, draft.conversation_id
    if conversation is not None and route.unit in ("auto", "conversation"):
        return f"{user}\x1e{conversation}"
    return user if route.unit in ("auto", "user") else draft.completion_id


def _number(*parts: str) -> str:
    """64 bits of a hash, in hexadecimal."""
    return blake2b("\x1f".join(parts).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _place(number: str) -> float:
    return int(number, 16) / 2**64

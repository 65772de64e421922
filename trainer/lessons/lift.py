"""The brake before any of it: does the model do better with the comment in its prompt?

A model that cannot follow a rule when it is told cannot teach itself to. Pure functions on pairs;
nothing was fitted to these rows, so the comparison is fair on any of them.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from registry.interval import mean_bounds

KEPT = 0.9
"""Share of answers that keep to a rule without being told it: nothing is left to teach."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One prompt answered without and with the comment; null: nobody could say."""

    keeps: tuple[float | None, float | None]
    """Whether each answer keeps to it."""
    quality: tuple[float | None, float | None] = (None, None)
    """What the held-out grader says of each."""


@dataclass(frozen=True, kw_only=True)
class Lift:
    """The verdict and what it stands on."""

    state: str
    """waiting, teaching, learned or refused."""
    why: str
    rows: int
    """That both answers were judged of."""
    tried: int = 0
    """That both answers were given to."""
    mean: float | None = None
    low: float | None = None
    champion: str = ""

    def document(self) -> dict[str, Any]:
        """For the lake."""
        return {key: value for key, value in asdict(self).items() if key not in ("state", "why")}


def decide(pairs: Sequence[Pair], confidence: float, champion: str = "") -> Lift:
    """teaching: better with it, beyond chance, and nothing else is proven worse. learned: kept to
    without it. waiting: not shown, with the number of rows that would do. refused: it harms."""
    gains = [b - a for a, b in (pair.keeps for pair in pairs) if a is not None and b is not None]
    sure = f"at {100 * confidence:g} % confidence"
    if len(gains) < 2:
        why = f"tried on {len(gains)} rows < 2: too few to compare with and without it"
        return Lift(state="waiting", why=why, rows=len(gains), tried=len(pairs), champion=champion)
    bounds = mean_bounds(gains, confidence, max(1.0, *map(abs, gains)))
    told: dict[str, Any] = {"rows": len(gains), "tried": len(pairs), "champion": champion}
    told |= {"mean": bounds.mean, "low": bounds.low}
    shown = f"with it {bounds.mean:+.3f} on {len(gains)} rows, {sure} at least {bounds.low:.3f}"
    harm = _harm(pairs, confidence)
    if bounds.low <= 0:
        already = _already(pairs)
        if already is not None and already >= KEPT:
            why = f"kept to without it in {already:.0%} of {len(gains)} rows: nothing left to teach"
            return Lift(state="learned", why=why, **told)
        needed = bounds.rows_for(0.0, len(gains)) if bounds.mean > 0 else None
        more = (
            f"about {needed} rows like these would show it"
            if needed
            else ("the model does not follow it when told: no number of rows like these would")
        )
        return Lift(state="waiting", why=f"{shown}, not > 0: {more}", **told)
    if harm is not None:
        return Lift(state="refused", why=f"{shown}, but {harm}", **told)
    return Lift(state="teaching", why=f"{shown} > 0", **told)


def _already(pairs: Sequence[Pair]) -> float | None:
    found = [pair.keeps[0] for pair in pairs if pair.keeps[0] is not None]
    return sum(found) / len(found) if found else None


def _harm(pairs: Sequence[Pair], confidence: float) -> str | None:
    """What the held-out grader says against it, where that is beyond chance."""
    losses = [b - a for a, b in (pair.quality for pair in pairs) if a is not None and b is not None]
    if len(losses) < 2:
        return None
    bounds = mean_bounds(losses, confidence, max(1.0, *map(abs, losses)))
    if bounds.high >= 0:
        return None
    return (
        f"the held-out grader falls by {-bounds.mean:.3f} on {len(losses)} rows, at least "
        f"{-bounds.high:.3f}: rule and right answers contradict each other"
    )


def verdict(pair: Pair) -> str:
    """What a prompt answered again is: `better` (taught), `kept` (nothing to teach, stays replay),
    or why it is left out."""
    before, after = pair.keeps
    if before is None or after is None:
        return "not judged"
    if before >= 0.5:
        return "kept"
    if after < 0.5:
        return "not kept"
    was, now = pair.quality
    if was is not None and now is not None and now < was:
        return "worse by the held-out grader"
    return "better"

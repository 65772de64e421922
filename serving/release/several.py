"""Several challengers of one release: what their decisions come to together. Pure.

Each has its own e-values against the champion and its own `decide`, at an equal part of the levels
(`challengers.abreast`). So by the union bound the chance that any version that is no better is
promoted is that of a release of one, whatever they share and whichever of the proven is chosen.

- The first that is proven is promoted; of several in one round the one with the most evidence.
- A step is one for all: the draw between the champion and each one is then the same, whoever was
  dropped. So none is taken while any of those that run is looked at twice.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from serving.release.decide import Decision, Evidence
from serving.release.states import Phase, Release


class Weighed(NamedTuple):
    """One challenger, by itself."""

    release: Release
    evidence: Evidence
    decision: Decision


def together(found: Sequence[Weighed]) -> list[Decision]:
    """What becomes of each, in their order."""
    proven = [each for each in found if each.decision.phase is Phase.PROMOTED]
    if proven:
        best = max(proven, key=_evidence)
        return [each.decision if each is best else _left(each, best) for each in found]
    held = [each for each in found if _holds(each)]
    return [_waits(each, held[0]) if held and _steps(each) else each.decision for each in found]


def _evidence(weighed: Weighed) -> float:
    return weighed.evidence.primary.promote


def _holds(weighed: Weighed) -> bool:
    return weighed.decision.phase is Phase.RAMPING and not _steps(weighed)


def _steps(weighed: Weighed) -> bool:
    release, decision = weighed.release, weighed.decision
    return decision.phase is Phase.RAMPING and decision.stage != release.stage


def _waits(weighed: Weighed, held: Weighed) -> Decision:
    release, version = weighed.release, held.release.candidate.version
    reason = f"waits for version {version}: {held.decision.reason}"
    return Decision(Phase.RAMPING, reason, release.stage)


def _left(weighed: Weighed, best: Weighed) -> Decision:
    """What ends by itself ends as that."""
    if weighed.decision.phase not in (Phase.RAMPING, Phase.PROMOTED):
        return weighed.decision
    version, also = best.release.candidate.version, weighed.decision.phase is Phase.PROMOTED
    reason = (
        f"version {version} was proven {'with more evidence' if also else 'first'}: "
        f"promote e-value {_number(best)}, of this one {_number(weighed)}"
    )
    return Decision(Phase.NOT_CHOSEN, reason, weighed.release.stage)


def _number(weighed: Weighed) -> str:
    return f"{math.exp(min(700.0, _evidence(weighed))):.4g}"

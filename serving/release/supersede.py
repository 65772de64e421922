"""May a newer version take the place of a release that is undecided and stale? Pure decisions.

- Ending a release promotes nobody, whatever was looked at before: the chance of a wrong promotion
  can only fall. What the ended one has spent of the lifetime budget stays spent, and the newer one
  pays its own level: e-LORD's bound holds under any rule for when to end.
- What it costs is power: a better version may be ended before it could show it. So one that has
  not lasted `supersede_after_seconds`, or has evidence for itself, is left alone.
"""

import math
from typing import NamedTuple

from serving.release.decide import Evidence
from serving.release.states import Phase, Release

EVIDENCE = 3.0
"""E-value of the promotion question from which a release has something to lose. A version that is
no better gets there in a third of its releases at most (Ville)."""


class Verdict(NamedTuple):
    """Whether it gives way, and the comparison that decided."""

    gives_way: bool
    reason: str


def left_alone(running: Release, newer: Release, now: float) -> str | None:
    """Why `running` stays whatever its evidence is; None: its evidence decides.

    The rules are the newer one's: who shortens the wait in the task file means this one too.
    """
    after = newer.parsed_rules.supersede_after_seconds
    if after is None:
        return "release.supersede_after_seconds is not set"
    if running.phase is not Phase.RAMPING:
        return f"it is {running.phase}"
    if max(running.challengers, newer.challengers) > 1:
        return "only one version takes the place of one"
    if running.paired is not None:
        return "it was found better in the shadow, and is looked at for harm alone"
    if running.ungated is not None or newer.ungated is not None:
        return "only a gated version takes the place of a gated one"
    if not _is_newer(newer.candidate.version, running.candidate.version):
        return f"version {newer.candidate.version} is not newer"
    lasted = now - running.ramp_since
    if lasted < after:
        return f"it has ramped for {lasted:.0f} of {after:g} s (release.supersede_after_seconds)"
    return None


def verdict(newer: Release, evidence: Evidence) -> Verdict:
    """By the evidence of the one that runs: its best moment counts, as it does for a promotion."""
    e_value = math.exp(min(evidence.primary.promote, 700.0))
    found = f"promote e-value {e_value:.3g} on {evidence.primary.units} units"
    if e_value >= EVIDENCE:
        return Verdict(False, f"it has evidence for itself: {found}, at least {EVIDENCE:g}")
    version = newer.candidate.version
    return Verdict(True, f"superseded by version {version}: {found}, below {EVIDENCE:g}")


def _is_newer(version: str, than: str) -> bool:
    """Versions are counted."""
    return version.isdigit() and than.isdigit() and int(version) > int(than)

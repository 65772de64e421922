"""The life of a model version: which states there are and which may follow which."""

from enum import StrEnum

from everlearn.errors import InputError


class VersionState(StrEnum):
    """Where a version stands."""

    REGISTERED = "registered"
    GATED = "gated"
    """Passed the offline gate."""
    LOADING = "loading"
    """Its adapter is being loaded and verified on the replicas."""
    RAMPING = "ramping"
    """Has a share of live traffic."""
    CHAMPION = "champion"
    REJECTED = "rejected"
    """Failed the gate, or did not load or verify."""
    ROLLED_BACK = "rolled_back"
    """Had live traffic and lost it for cause."""
    RETIRED = "retired"
    """Replaced, or stopped without harm."""


S = VersionState

TRANSITIONS: dict[VersionState, frozenset[VersionState]] = {
    S.REGISTERED: frozenset({S.GATED, S.REJECTED, S.LOADING, S.RETIRED}),
    S.GATED: frozenset({S.LOADING, S.REJECTED, S.RETIRED}),
    S.LOADING: frozenset({S.RAMPING, S.REJECTED, S.RETIRED}),
    S.RAMPING: frozenset({S.CHAMPION, S.ROLLED_BACK, S.RETIRED}),
    S.CHAMPION: frozenset({S.ROLLED_BACK, S.RETIRED}),
    # A rejected version may be gated again under other rules, or released ungated by name.
    S.REJECTED: frozenset({S.GATED, S.LOADING, S.RETIRED}),
    S.ROLLED_BACK: frozenset({S.LOADING, S.CHAMPION, S.RETIRED}),
    # Stopped without harm: it may be gated and released again; `rollback` brings a champion back.
    S.RETIRED: frozenset({S.GATED, S.REJECTED, S.LOADING, S.CHAMPION}),
}


def move(old: VersionState, new: VersionState) -> VersionState:
    """`new` if it may follow `old` (or is the same, so that a repeated step is harmless)."""
    if new is not old and new not in TRANSITIONS[old]:
        allowed = ", ".join(sorted(TRANSITIONS[old]))
        raise InputError(
            f"a version cannot go from {old} to {new}; from {old} it goes to {allowed}"
        )
    return new

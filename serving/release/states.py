"""The life of a release and of a task's traffic, as values: every change makes a new document.

A document is written whole, with compare-and-swap; what must follow it elsewhere (events for the
lake, states and aliases for the registry) waits in its outbox, so nothing is lost to a kill.
Nothing here reads a clock, a file or a network.
"""

from enum import StrEnum
from typing import Any

import msgspec

from everlearn.errors import InputError, ReleaseBusy
from everlearn.rules import ReleaseRules
from gateway.routes import ArmRoute
from serving.release.budget import Budget, promoted, spend


class Phase(StrEnum):
    """Where a release stands."""

    LOADING = "loading"
    """Adapter being loaded and verified; no traffic yet."""
    PAIRING = "pairing"
    """It answers in the shadow and a judge compares; nobody meets it yet (`pairs.py`)."""
    RAMPING = "ramping"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    """It did harm."""
    STOPPED = "stopped"
    """Futile: no gain worth having."""
    INCONCLUSIVE = "inconclusive"
    ABORTED = "aborted"
    """By an operator."""
    SUPERSEDED = "superseded"
    """Undecided when a newer version took its place: neither harm nor futile."""
    NOT_CHOSEN = "not_chosen"
    """Another challenger of the same release was proven first; nothing is said against it."""
    ERROR = "error"
    """It did not load or verify, and never had traffic; or a guardrail stayed blind, or what was
    to decide could not be asked to the end."""


WATCH = ".watch"
"""A release's id and this is its watch's."""
MAX_FORMER = 20
"""Champions before `last_good` that are kept."""
ENDED = frozenset(Phase) - {Phase.LOADING, Phase.PAIRING, Phase.RAMPING}
TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    Phase.LOADING: frozenset({Phase.PAIRING, Phase.RAMPING, Phase.ERROR, Phase.ABORTED}),
    Phase.PAIRING: frozenset({Phase.RAMPING, *ENDED})
    - {Phase.PROMOTED, Phase.ROLLED_BACK, Phase.NOT_CHOSEN},
    Phase.RAMPING: ENDED,
    **{phase: frozenset() for phase in ENDED},
    # By an operator only: `rollback` after the promotion.
    Phase.PROMOTED: frozenset({Phase.ROLLED_BACK}),
}
EVENTS = {Phase.RAMPING: "step", Phase.INCONCLUSIVE: "stopped"}
"""Of the lake's `releases` table: what tells that a release came into a phase, where it is not the
phase's own name."""
ENDINGS = frozenset(EVENTS.get(phase, str(phase)) for phase in ENDED)
"""Names of the events that end a release."""
VERSION_STATE = {
    Phase.LOADING: "loading",
    Phase.PAIRING: "loading",
    Phase.RAMPING: "ramping",
    Phase.PROMOTED: "champion",
    Phase.ROLLED_BACK: "rolled_back",
    Phase.STOPPED: "retired",
    Phase.INCONCLUSIVE: "retired",
    Phase.ABORTED: "retired",
    Phase.SUPERSEDED: "retired",
    Phase.NOT_CHOSEN: "retired",
    Phase.ERROR: "rejected",
}


class Rate(msgspec.Struct, frozen=True):
    """What an answer costs: a linear function of what the lake knows of it."""

    prompt_token: float
    completion_token: float
    millisecond: float


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """The ramp of one version."""

    release_id: str
    candidate: ArmRoute
    rules: dict[str, Any]
    """ReleaseRules as they were at the start: an edited task file changes the next release."""
    alpha: float
    """Promotion level from the lifetime budget; 0 for an ungated release."""
    created_at: float
    """Unix seconds, as all times here."""
    phase: Phase = Phase.LOADING
    stage: int = 0
    stage_since: float = 0.0
    pairs_since: float = 0.0
    """When it began to answer in the shadow; 0: it never did."""
    paired: str | None = None
    """How its shadow pairs were won: all that is left to ask is whether it does harm."""
    ramp_since: float = 0.0
    reason: str = ""
    holding: str | None = None
    """What it waits for that is no evidence: a judge's vote, a grader, the lake."""
    ungated: str | None = None
    """Why it was released without a passed gate; it is never promoted."""
    answer_seconds: float = 0.0
    """By when even a slow answer is done, since its request: fixed at the first step."""
    trust_raters: bool = False
    """An operator asked for a release that rests on those alone who answer."""
    latency_reference_ms: float | None = None
    """What an answer must not exceed: from the champion's answers before the start."""
    latency_ratio: float = 1.0
    """Times which a candidate's answer may take."""
    label_share: float | None = None
    """Of the answers, by a hash of their id: what people label of them corrects the primary."""
    label_worth: float = 1.0
    """Labels without the judge that one with it is worth, as it was before the start."""
    cuts: tuple[float, float] | None = None
    """Thirds of the units' mean reward before the start: the strata."""
    latency_mean_ms: float | None = None
    cost_mean: float | None = None
    """Of the champion's answers before the start: what latency and cost are compared with."""
    prices: dict[str, Rate] = {}
    """Of an answer by arm, as at the start."""
    challengers: int = 1
    """Versions that were drawn beside the champion at the start; dropped ones count on."""
    which: int = 0
    """Of them this one, by the draw."""
    watch: bool = False
    """It was won: the candidate is the champion, and the same evidence is read against those whom
    the version before still answers. `stage` is then the epoch, `created_at` the promotion."""

    @property
    def parsed_rules(self) -> ReleaseRules:
        return ReleaseRules(**self.rules)

    @property
    def active(self) -> bool:
        return self.phase not in ENDED

    @property
    def drawn_as(self) -> str:
        """The release by whose id units are drawn, and which their completions name."""
        return self.release_id.removesuffix(suffix(self.which))

    @property
    def percent(self) -> float:
        """Share of traffic that the candidate has by this release, 0 to 100."""
        if self.phase is Phase.RAMPING:
            return float(self.parsed_rules.steps[self.stage]) / self.challengers
        return 100.0 if self.phase is Phase.PROMOTED else 0.0


def suffix(which: int) -> str:
    """Of the release id of a challenger beside the first."""
    return f".{which + 1}" if which else ""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the lake's `releases` table that is still to be written."""

    event: str
    release_id: str
    version: str
    phase: str
    stage: int
    percent: float
    reason: str
    at: float
    evidence: dict[str, Any] = {}


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """What the registry is still to be told: a version's state, or who bears an alias."""

    kind: str
    """`state` or `alias`."""
    name: str
    """The state, or the alias."""
    version: str | None
    reason: str = ""


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """Who answers a task: one document per task, the truth behind `routes.json`."""

    champion: ArmRoute
    last_good: ArmRoute | None = None
    """The champion before: what `rollback` goes back to."""
    former: tuple[ArmRoute, ...] = ()
    """The champions before that one, the latest first: `rollback --to`."""
    holdback: ArmRoute | None = None
    holdback_percent: float = 0.0
    release: Release | None = None
    """The latest release, active or ended; of several challengers one that runs, if any does."""
    beside: tuple[Release, ...] = ()
    """The other challengers of that release."""
    watch: Release | None = None
    """The promotion that is watched; it waits while another release is active."""
    budget: Budget = Budget()
    events: tuple[Event, ...] = ()
    notes: tuple[Note, ...] = ()


def standing(traffic: Traffic) -> str:
    """What somebody saw who asks for a change: the champion, and the release that runs."""
    running = traffic.release is not None and traffic.release.active
    release = f"/{traffic.release.drawn_as}" if traffic.release and running else ""
    return f"{traffic.champion.version}{release}"


def begin(traffic: Traffic, release: Release, *beside: Release) -> Traffic:
    """A release is asked for, of one version or several: one at a time per task; its
    level is spent at once."""
    if traffic.release is not None and traffic.release.active:
        running = traffic.release
        raise ReleaseBusy(
            f"version {running.candidate.version} is {running.phase} (release "
            f"{running.release_id}): one release at a time; wait, or `everlearn release abort`"
        )
    level = sum(each.alpha for each in (release, *beside))
    changed = msgspec.structs.replace(
        traffic, release=release, beside=beside, budget=spend(traffic.budget, level)
    )
    for each in (*beside, release):
        changed = _tell(changed, "started", each, each.created_at)
    return changed


def change(
    traffic: Traffic,
    phase: Phase,
    reason: str,
    now: float,
    *,
    stage: int | None = None,
    evidence: dict[str, Any] | None = None,
) -> Traffic:
    """The release goes to `phase` (and `stage`); InputError where that may not follow."""
    old = traffic.release
    if old is None:
        raise InputError("there is no release")
    if phase is not old.phase and phase not in TRANSITIONS[old.phase]:
        raise InputError(f"a release cannot go from {old.phase} to {phase}")
    moved = stage is not None and stage != old.stage
    new = msgspec.structs.replace(
        old,
        phase=phase,
        reason=reason,
        holding=None,
        stage=old.stage if stage is None else stage,
        stage_since=now if moved or phase is not old.phase else old.stage_since,
        pairs_since=now if phase is not old.phase and phase is Phase.PAIRING else old.pairs_since,
        ramp_since=now if phase is not old.phase and phase is Phase.RAMPING else old.ramp_since,
    )
    changed = msgspec.structs.replace(traffic, release=new)
    if phase is Phase.PROMOTED:
        changed = _crown(changed, new, now)
    event = EVENTS.get(phase, str(phase))
    return _tell(changed, event, new, now, evidence=evidence or {})


def revert(
    traffic: Traffic,
    reason: str,
    now: float,
    *,
    to: str | None = None,
    evidence: dict[str, Any] | None = None,
) -> Traffic:
    """All traffic to a former champion, by default the one before (a running release must be
    ended); `last_good` is then the one before *that*."""
    place = _place_of(traffic, to)
    chosen, *rest = chain(traffic)[place:]
    fallen = traffic.champion
    release = traffic.release
    own = release is not None and release.candidate == fallen
    if release is not None and own:
        release = msgspec.structs.replace(release, phase=Phase.ROLLED_BACK, reason=reason)
    changed = msgspec.structs.replace(
        traffic,
        champion=chosen,
        last_good=rest[0] if rest else None,
        former=tuple(rest[1:]),
        holdback=None,
        holdback_percent=0.0,
        release=release,
        watch=None,
    )
    event = Event(
        event="rolled_back",
        release_id=release.release_id if release else "",
        version=fallen.version,
        phase=str(Phase.ROLLED_BACK),
        stage=release.stage if release else 0,
        percent=0.0,
        reason=reason,
        at=now,
        evidence=evidence or {},
    )
    aliases = {
        "champion": chosen.version,
        "last_good": rest[0].version if rest else None,
        "holdback": None,
    }
    states = {"champion": chosen.version, "rolled_back": fallen.version}
    return msgspec.structs.replace(
        changed,
        events=(*changed.events, event),
        notes=(
            *changed.notes,
            *(Note(kind="alias", name=name, version=each) for name, each in aliases.items()),
            *(
                Note(kind="state", name=name, version=each, reason=reason)
                for name, each in states.items()
            ),
        ),
    )


def chain(traffic: Traffic) -> tuple[ArmRoute, ...]:
    """The former champions that can be gone back to, the latest first."""
    return () if traffic.last_good is None else (traffic.last_good, *traffic.former)


def watching(traffic: Traffic) -> Release | None:
    """The watch, unless it waits for another release to end."""
    active = traffic.release is not None and traffic.release.active
    return None if active else traffic.watch


def unwatch(traffic: Traffic, reason: str, now: float, evidence: dict[str, Any]) -> Traffic:
    """The watch is over and found nothing."""
    watch = traffic.watch
    assert watch is not None
    event = Event(
        event="watched",
        release_id=watch.release_id.removesuffix(WATCH),
        version=watch.candidate.version,
        phase=str(Phase.PROMOTED),
        stage=watch.stage,
        percent=100.0,
        reason=reason,
        at=now,
        evidence=evidence,
    )
    return msgspec.structs.replace(traffic, watch=None, events=(*traffic.events, event))


def former(traffic: Traffic, version: str | None = None) -> ArmRoute:
    """The former champion of that version; None: the one before. InputError if it is none."""
    return chain(traffic)[_place_of(traffic, version)]


def _place_of(traffic: Traffic, version: str | None) -> int:
    """Where in the chain a version stands."""
    versions = [arm.version for arm in chain(traffic)]
    if not versions:
        raise InputError(
            f"there is no champion before version {traffic.champion.version} to go back to"
        )
    if version is None:
        return 0
    if version not in versions:
        raise InputError(
            f"version {version} is none of the former champions: {', '.join(versions)}; another "
            "version gets traffic by `everlearn release start`"
        )
    return versions.index(version)


def _crown(traffic: Traffic, release: Release, now: float) -> Traffic:
    """The candidate becomes champion; a share of users stays on the old one, to compare with."""
    old = traffic.champion
    rules = release.parsed_rules
    percent = rules.holdback_percent
    watched = rules.watch_seconds > 0
    names = (("champion", release.candidate.version), ("last_good", old.version))
    notes = [Note(kind="alias", name=name, version=version) for name, version in names]
    held = old.version if percent else None
    notes.append(Note(kind="alias", name="holdback", version=held))
    reason = f"replaced by version {release.candidate.version}"
    notes.append(Note(kind="state", name="retired", version=old.version, reason=reason))
    crowned = {release.candidate.version, old.version}
    former = tuple(arm for arm in chain(traffic) if arm.version not in crowned)
    return msgspec.structs.replace(
        traffic,
        champion=release.candidate,
        last_good=old,
        former=former[:MAX_FORMER],
        holdback=old if percent else None,
        holdback_percent=percent,
        watch=_watch(release, now) if watched else None,
        budget=promoted(traffic.budget),
        notes=(*traffic.notes, *notes),
    )


def _watch(release: Release, now: float) -> Release:
    """The same question asked again, of the champion that it made."""
    return msgspec.structs.replace(
        release,
        release_id=f"{release.release_id}{WATCH}",
        watch=True,
        challengers=1,
        which=0,
        phase=Phase.RAMPING,
        stage=0,
        stage_since=now,
        ramp_since=now,
        created_at=now,
    )


def _tell(
    traffic: Traffic,
    event: str,
    release: Release,
    now: float,
    evidence: dict[str, Any] | None = None,
) -> Traffic:
    """Put the event and what the registry must know into the outbox."""
    version = release.candidate.version
    row = Event(
        event=event,
        release_id=release.release_id,
        version=version,
        phase=str(release.phase),
        stage=release.stage,
        percent=release.percent,
        reason=release.reason,
        at=now,
        evidence=evidence or {},
    )
    state = VERSION_STATE[release.phase]
    if release.phase is Phase.ERROR and (release.ramp_since or release.pairs_since):
        # What could not be measured says nothing against the version: it may try again.
        state = "retired"
    challenger = version if release.phase is Phase.RAMPING else None
    notes = (
        Note(kind="state", name=state, version=version, reason=release.reason),
        Note(kind="alias", name="challenger", version=challenger),
    )
    return msgspec.structs.replace(
        traffic, events=(*traffic.events, row), notes=(*traffic.notes, *notes)
    )

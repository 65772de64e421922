"""What to do with a ramping release: a pure function of its state, the evidence, and the time.

- Harm on the primary metric or on any guardrail ends it, before anything else is asked.
- Only the promote question can end it at 100 %, never for a release without a passed gate, and
  only with every guardrail seen, fresh evidence and the dwell of the step over.
- A guardrail that stays blind ends it as an error with its name, and so does what could not be
  asked to the end (a grader that fails, a judge that lost its vote).
- A version that was found better in the shadow (`pairs.py`) is asked about harm alone, at every
  step; it is promoted from the last one.
- The share of traffic never falls before the end; an ended release stays ended.
- Nothing grows unseen or on adverse evidence: the first step is left only after some units of the
  candidate have closed, and none is taken while an e-value of harm stands above a bound.
"""

import math
from typing import NamedTuple

from everlearn.rules import ReleaseRules
from serving.release.corrected import Labels
from serving.release.failures import OF, Failed
from serving.release.states import Phase, Release

RATIO_LEVEL = 0.001
"""Of the sample-ratio check, both sides together."""
STEP_HARM = 3.0
"""e-value of harm, as it stands and not its peak, above which no step is taken."""
FEW_STEP_HARM = 1.2
"""The same with fewer than `min_units` units of the candidate: one bad answer of the only unit so
far is 1.2 to 2.2. Both only wait: an e-value that nothing feeds sinks again."""
HARM_AT_FUTILITY = 5.0
"""e-value of harm, as it stands, from which a futile end is one for harm: futility crosses before
harm even at -30 points (rehearsed: so named are 75 % there, 5 % of identical versions)."""
BLIND_FACTOR = 10
"""A guardrail without any unit is blind once the primary metric has so many times `min_units`."""


class MetricEvidence(NamedTuple):
    """What the closed units say about one metric so far."""

    name: str
    units: int = 0
    """That carry information: randomised in their stage and scored."""
    candidates: int = 0
    """Of them, on the candidate."""
    mean_candidate: float | None = None
    mean_champion: float | None = None
    """Plain means, for people: the decision never uses them."""
    promote: float = 0.0
    """Largest log e-value so far, here and below."""
    harm: float = 0.0
    futility: float = 0.0
    ratio: float = 0.0
    """Of assignment against its probability, among the units that were scored."""
    harm_now: float = 0.0
    """log e-value of harm as it stands."""
    failed: Failed = Failed()
    """Harm by failures alone; of `error_rate`."""
    labels: Labels | None = None
    """Where people's words correct a judge's."""


class Evidence(NamedTuple):
    """Everything the decision looks at."""

    primary: MetricEvidence
    guardrails: tuple[MetricEvidence, ...] = ()
    """With the co-primary metric, and what a `not_worse` release must win."""
    problem: str | None = None
    """Why the evidence may be stale (lake away, grader broken): hold."""


class Decision(NamedTuple):
    """Where the release goes, with the comparison that decided."""

    phase: Phase
    reason: str
    stage: int


def decide(release: Release, evidence: Evidence, rules: ReleaseRules, now: float) -> Decision:
    """The first of these that holds; times are Unix seconds."""
    if release.phase is not Phase.RAMPING:
        return Decision(release.phase, release.reason, release.stage)
    found = _end(release, evidence, rules, now)
    if found is not None:
        return Decision(*found, release.stage)
    return _ramp(release, evidence, rules, now)


def last_stage(rules: ReleaseRules) -> int:
    """Index of the last step that still has two arms."""
    return sum(1 for step in rules.steps if step < 100) - 1


def harm_levels(rules: ReleaseRules, guardrails: int) -> tuple[float, float]:
    """Level of the primary metric and of each guardrail: together they are `harm_level`."""
    if guardrails == 0:
        return rules.harm_level, 0.0
    return rules.harm_level / 2, rules.harm_level / 2 / guardrails


def unit_level(name: str, level: float) -> float:
    """What closed units have of a metric's level: of error_rate's its failures alone have half."""
    return level / 2 if name == OF else level


def _end(
    release: Release, evidence: Evidence, rules: ReleaseRules, now: float
) -> tuple[Phase, str] | None:
    primary = evidence.primary
    harmful = harm(evidence, rules)
    if harmful:
        return Phase.ROLLED_BACK, harmful
    line = _crossed("sample ratio", primary.ratio, RATIO_LEVEL, primary)
    if line:
        return Phase.INCONCLUSIVE, f"{line}: the arms' scored units do not fit their shares"
    promoted = _won(release, evidence, rules)
    if promoted and _waits_for(release, evidence, rules, now) is None:
        return Phase.PROMOTED, promoted
    blind = _blind(evidence, rules, BLIND_FACTOR)
    if blind:
        return Phase.ERROR, blind
    line = _crossed("futility", primary.futility, rules.futility_level, primary)
    if line and release.paired is None:
        ended = Phase.STOPPED
        line += f": {_wanted(rules)} is ruled out"
        if primary.harm_now >= math.log(HARM_AT_FUTILITY):
            ended = Phase.ROLLED_BACK
            number = _number(primary.harm_now)
            line += f", and it is worse: harm e-value {number} >= {HARM_AT_FUTILITY:g}"
        return ended, line
    return _over(release, evidence, rules, now)


def _over(
    release: Release, evidence: Evidence, rules: ReleaseRules, now: float
) -> tuple[Phase, str] | None:
    """Whether its time is up, and what that means."""
    elapsed = now - release.ramp_since
    if elapsed < rules.max_seconds:
        return None
    blind = _blind(evidence, rules, 1)
    if blind:
        return Phase.ERROR, blind
    reason = f"undecided after {elapsed:.0f} s >= max_seconds {rules.max_seconds:g}"
    waits = _waits_for(release, evidence, rules, now) if _won(release, evidence, rules) else None
    open_question = _unproven(release, evidence, rules)
    why = f"; won, but {waits}" if waits else f"; {open_question}" if open_question else ""
    if evidence.problem is not None:
        # Not that the evidence says nothing: it could not be asked.
        why = why or f"; holding: {evidence.problem}"
        return Phase.ERROR, f"{reason} ({_summary(evidence.primary)}){why}"
    return Phase.INCONCLUSIVE, f"{reason} ({_summary(evidence.primary)}){why}"


def _won(release: Release, evidence: Evidence, rules: ReleaseRules) -> str | None:
    """The comparison that promotes; None: not proven, or never to be.

    Every question must cross at the level - the primary metric's, under `not_worse` that of what
    is to be won, and the co-primary's - so that a wrong promotion is as rare as by one of them.
    """
    if release.ungated is not None:
        return None
    if release.paired is not None:
        return f"{release.paired}; no harm in the ramp since: {_worst(evidence)}"
    line = _crossed("promote", evidence.primary.promote, release.alpha, evidence.primary)
    if line is None:
        return None
    if rules.margin is not None:
        line = f"a loss of {rules.margin:g} is ruled out: {line}"
    for name, gained in ((rules.wins, "is won"), (rules.beside, "is not worse")):
        if name is None:
            continue
        also = _proven(evidence, name, release.alpha)
        if also is None:
            return None
        line = f"{line}; {name} {gained}: {also}"
    return line


def _proven(evidence: Evidence, name: str, level: float) -> str | None:
    for metric in evidence.guardrails:
        if metric.name == name:
            return _crossed("promote", metric.promote, level, metric)
    return None


def _unproven(release: Release, evidence: Evidence, rules: ReleaseRules) -> str | None:
    """What the primary metric's promotion still waits for: another question's answer."""
    primary = evidence.primary
    settled = release.ungated is not None or release.paired is not None
    if settled or not _crossed("promote", primary.promote, release.alpha, primary):
        return None
    for metric in evidence.guardrails:
        asked = metric.name in (rules.wins, rules.beside)
        if asked and _proven(evidence, metric.name, release.alpha) is None:
            return (
                f"{primary.name} has won, but not yet {metric.name}: promote e-value "
                f"{_number(metric.promote)} < {1 / release.alpha:.4g} on {_summary(metric)}"
            )
    return None


def _waits_for(release: Release, evidence: Evidence, rules: ReleaseRules, now: float) -> str | None:
    """What a promotion still lacks beside its e-value."""
    if evidence.problem is not None:
        return f"holding: {evidence.problem}"
    dwell = now - release.stage_since
    if dwell < rules.min_dwell_seconds:
        return f"dwell {dwell:.0f} s < min_dwell_seconds {rules.min_dwell_seconds:g}"
    if release.paired is not None:
        # Nothing that was bet on in the ramp speaks for it: harm is looked for at every step.
        if release.stage < last_stage(rules):
            return f"at {release.percent:g} % of {rules.steps[last_stage(rules)]:g} %"
        adverse = _adverse(evidence, rules)
        if adverse is not None:
            return adverse
    for metric in evidence.guardrails:
        if metric.candidates < rules.min_units:
            return (
                f"guardrail {metric.name} has {metric.candidates} closed candidate units "
                f"< min_units {rules.min_units}"
            )
    return None


def _blind(evidence: Evidence, rules: ReleaseRules, factor: int) -> str | None:
    """The guardrail that saw no unit of the candidate though the primary metric saw enough."""
    for metric in evidence.guardrails:
        enough = evidence.primary.candidates >= max(1, factor * rules.min_units)
        if metric.candidates == 0 and enough:
            return (
                f"guardrail {metric.name} is blind: it has seen no unit of the candidate, "
                f"{evidence.primary.name} {evidence.primary.candidates}"
            )
    return None


def _wanted(rules: ReleaseRules) -> str:
    if rules.margin is not None:
        return f"a loss of less than {rules.margin / 2:g}, half the margin,"
    return f"a gain of {rules.smallest_effect:g}"


def harm(evidence: Evidence, rules: ReleaseRules) -> str | None:
    """The comparison by which harm is proven, on any metric."""
    own, each = harm_levels(rules, len(evidence.guardrails))
    for metric in (evidence.primary, *evidence.guardrails):
        level = own if metric is evidence.primary else each
        closed = unit_level(metric.name, level)
        line = _failing(metric, level - closed) or _crossed("harm", metric.harm, closed, metric)
        if line is not None:
            return line
    return None


def _failing(metric: MetricEvidence, level: float) -> str | None:
    failed = metric.failed
    if level <= 0 or failed.harm < math.log(1 / level):
        return None
    return (
        f"harm e-value {_number(failed.harm)} >= {1 / level:.4g} on failures alone of "
        f"{metric.name}: {failed.units} units failed, {failed.candidates} of them on the candidate"
    )


def _ramp(release: Release, evidence: Evidence, rules: ReleaseRules, now: float) -> Decision:
    """Stay at this step or take the next; the step to 100 % is not taken by time."""

    def hold(reason: str) -> Decision:
        return Decision(Phase.RAMPING, reason, release.stage)

    if evidence.problem is not None:
        return hold(f"holding: {evidence.problem}")
    dwell = now - release.stage_since
    if dwell < rules.min_dwell_seconds:
        return hold(f"dwell {dwell:.0f} s < min_dwell_seconds {rules.min_dwell_seconds:g}")
    if release.stage < last_stage(rules):
        adverse = _adverse(evidence, rules)
        if adverse is not None:
            return hold(adverse)
        reason = (
            f"no harm after {dwell:.0f} s >= min_dwell_seconds {rules.min_dwell_seconds:g}: "
            f"{_worst(evidence)}"
        )
        return Decision(Phase.RAMPING, reason, release.stage + 1)
    if release.ungated is not None:
        reason = f"ungated ({release.ungated}): goes no further than {release.percent:g} %"
        return Decision(Phase.INCONCLUSIVE, reason, release.stage)
    if _won(release, evidence, rules):
        return hold(f"won, but {_waits_for(release, evidence, rules, now)}")
    waits = _unproven(release, evidence, rules)
    return hold(waits or f"undecided: {_summary(evidence.primary)}")


def _adverse(evidence: Evidence, rules: ReleaseRules) -> str | None:
    """Why the next step is not taken yet."""
    metrics = (evidence.primary, *evidence.guardrails)
    seen = max(metric.candidates for metric in metrics)
    if seen < rules.min_candidates:
        return f"{seen} closed candidate units < min_candidates {rules.min_candidates}"
    for metric in metrics:
        bound = STEP_HARM if metric.candidates >= rules.min_units else FEW_STEP_HARM
        if metric.harm_now > math.log(bound):
            return (
                f"no step while the harm e-value {_number(metric.harm_now)} > {bound:g} "
                f"on {_summary(metric)}"
            )
    return None


def _crossed(question: str, log_e: float, level: float, metric: MetricEvidence) -> str | None:
    if level <= 0 or log_e < math.log(1 / level):
        return None
    return f"{question} e-value {_number(log_e)} >= {1 / level:.4g} on {_summary(metric)}"


def _worst(evidence: Evidence) -> str:
    metric = max((evidence.primary, *evidence.guardrails), key=lambda found: found.harm)
    return f"largest harm e-value {_number(metric.harm)} on {_summary(metric)}"


def _summary(metric: MetricEvidence) -> str:
    def mean(value: float | None) -> str:
        return "none" if value is None else f"{value:.3f}"

    return (
        f"{metric.name} after {metric.units} units, {metric.candidates} on the candidate "
        f"({mean(metric.mean_candidate)} against {mean(metric.mean_champion)})"
    )


def _number(log_e: float) -> str:
    return f"{math.exp(log_e):.4g}" if log_e < 50 else f"10^{log_e / math.log(10):.0f}"

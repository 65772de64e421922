"""What to do with a ramping release: a pure function of its state, the evidence, and the time.

- Harm on the primary metric or on any guardrail ends it, before anything else is asked.
- Only the promote question can end it at 100 %, and never for a release without a passed gate.
- The share of traffic never falls before the end; an ended release stays ended.
- Nothing grows unseen: the first step is left only after some units of the candidate have closed.
"""

import math
from typing import NamedTuple

from everlearn.task import ReleaseRules
from serving.release.states import ENDED, Phase, Release

RATIO_LEVEL = 0.001
"""Of the sample-ratio check, both sides together."""


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


class Evidence(NamedTuple):
    """Everything the decision looks at."""

    primary: MetricEvidence
    guardrails: tuple[MetricEvidence, ...] = ()
    problem: str | None = None
    """Why the evidence may be stale (lake away, grader broken): hold."""


class Decision(NamedTuple):
    """Where the release goes, with the comparison that decided."""

    phase: Phase
    reason: str
    stage: int


def decide(release: Release, evidence: Evidence, rules: ReleaseRules, now: float) -> Decision:
    """The first of these that holds; times are Unix seconds."""
    if release.phase in ENDED or release.phase is Phase.LOADING:
        return Decision(release.phase, release.reason, release.stage)
    phase, reason = _verdict(release, evidence, rules, now)
    if phase is not Phase.RAMPING:
        return Decision(phase, reason, release.stage)
    return _ramp(release, evidence, rules, now)


def last_stage(rules: ReleaseRules) -> int:
    """Index of the last step that still has two arms."""
    return sum(1 for step in rules.steps if step < 100) - 1


def _verdict(
    release: Release, evidence: Evidence, rules: ReleaseRules, now: float
) -> tuple[Phase, str]:
    primary = evidence.primary
    harmful = _harm(evidence, rules)
    if harmful:
        return Phase.ROLLED_BACK, harmful
    line = _crossed("sample ratio", primary.ratio, RATIO_LEVEL, primary)
    if line:
        return Phase.INCONCLUSIVE, f"{line}: the arms' scored units do not fit their shares"
    line = _crossed("promote", primary.promote, release.alpha, primary)
    if line and release.ungated is None:
        return Phase.PROMOTED, line
    line = _crossed("futility", primary.futility, rules.futility_level, primary)
    if line:
        return Phase.STOPPED, f"{line}: a gain of {rules.smallest_effect:g} is ruled out"
    elapsed = now - release.ramp_since
    if elapsed >= rules.max_seconds:
        reason = f"undecided after {elapsed:.0f} s >= max_seconds {rules.max_seconds:g}"
        return Phase.INCONCLUSIVE, f"{reason} ({_summary(primary)})"
    return Phase.RAMPING, ""


def _harm(evidence: Evidence, rules: ReleaseRules) -> str | None:
    line = _crossed("harm", evidence.primary.harm, rules.harm_level, evidence.primary)
    # The guardrails share one level: more of them must not roll good versions back more often.
    level = rules.harm_level / max(1, len(evidence.guardrails))
    for metric in evidence.guardrails:
        line = line or _crossed("harm", metric.harm, level, metric)
    return line


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
        seen = max(metric.candidates for metric in (evidence.primary, *evidence.guardrails))
        if seen < rules.min_candidates:
            return hold(f"{seen} closed candidate units < min_candidates {rules.min_candidates}")
        reason = (
            f"no harm after {dwell:.0f} s >= min_dwell_seconds {rules.min_dwell_seconds:g}: "
            f"{_worst(evidence)}"
        )
        return Decision(Phase.RAMPING, reason, release.stage + 1)
    if release.ungated is not None:
        reason = f"ungated ({release.ungated}): goes no further than {release.percent:g} %"
        return Decision(Phase.INCONCLUSIVE, reason, release.stage)
    return hold(f"undecided: {_summary(evidence.primary)}")


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

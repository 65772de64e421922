"""Shadow pairs: who is better, asked of a judge before anybody meets the candidate. Pure.

A share of the live prompts is answered by the candidate as well, unseen; a pairwise judge compares
both answers, in both orders. A pair's value is 1 where the candidate is better, 0.5 for a tie, 0
where it is worse, and the score of a release bets on it as on a unit of an even draw:

    x = s * ((value - 1/2) / 2 - h0 / 4)

so h0 is wins less losses, and ties cost nothing. E[value | past] <= 1/2 for a version that is no
better, and by Ville's inequality it is taken for better with the release's level at most.

- A user makes one pair in an epoch: nobody's taste counts as often as he asks.
- An answer that is none loses to one that is; the judge is not asked.
- Whoever wins goes on to a ramp in which only harm is looked for; the shadow promotes nobody.

`pairing.py` brings the pairs of a live release, `pairs_ahead.py` says how many it takes,
`rehearse_pairs.py` makes them up.
"""

import math
from typing import Any, NamedTuple

from everlearn.rules import ReleaseRules
from serving.release.accounts import Account
from serving.release.decide import HARM_AT_FUTILITY, Decision, MetricEvidence
from serving.release.states import Phase, Release

TREATED, PROPENSITY = 1.0, 0.5
"""Of each pair, as a unit."""


class Problem(NamedTuple):
    """Why pairs wait."""

    reason: str
    trusted: bool = True
    """Whether what was judged before still counts: not where the judge has lost its vote."""


def add(account: Account, value: Any) -> None:
    """Count one pair in each comparison."""
    account.add_each(TREATED, PROPENSITY, value)


def value_of(shown: bool | None, shadow: bool | None) -> float | None:
    """Of a pair in which some answer is none: True is an answer, False a failure, None says
    nothing (who left, left both)."""
    if shown is None or shadow is None:
        return None
    return 0.5 + (shadow - shown) / 2


def ends(found: MetricEvidence, rules: ReleaseRules, level: float, seconds: float) -> Phase | None:
    """How a comparison ends that has gone on for so long; None: it goes on. A crossing stays one,
    so looking late is not wrong."""
    if level > 0 and found.promote >= math.log(1 / level):
        return Phase.PROMOTED
    if found.futility >= math.log(1 / rules.futility_level):
        return Phase.STOPPED
    return Phase.INCONCLUSIVE if seconds >= rules.max_seconds else None


def decide(
    release: Release, found: MetricEvidence, problem: Problem | None, now: float
) -> Decision:
    """Where a release goes whose pairs are compared: on, to its ramp, or to its end."""
    rules = release.parsed_rules
    told, elapsed = line(found, release.alpha), now - release.pairs_since
    end = ends(found, rules, release.alpha, elapsed)
    over = f"after {elapsed:.0f} s >= max_seconds {rules.max_seconds:g} ({told})"
    if problem is not None and (end is Phase.INCONCLUSIVE or not problem.trusted):
        if elapsed >= rules.max_seconds:
            return Decision(Phase.ERROR, f"undecided {over}; holding: {problem.reason}", 0)
        return Decision(Phase.PAIRING, f"holding: {problem.reason} ({told})", 0)
    match end:
        case Phase.PROMOTED:
            return Decision(Phase.RAMPING, f"better in the shadow: {told}", 0)
        case Phase.STOPPED:
            return Decision(Phase.STOPPED, _futile(found, rules, told), 0)
        case Phase.INCONCLUSIVE:
            return Decision(Phase.INCONCLUSIVE, f"undecided {over}", 0)
    waits = f"holding: {problem.reason} ({told})" if problem is not None else told
    return Decision(Phase.PAIRING, waits, 0)


def line(found: MetricEvidence, level: float) -> str:
    """Where the pairs stand, for people."""
    mean = "" if found.mean_candidate is None else f", mean {found.mean_candidate:.3f}"
    return (
        f"{found.units} shadow pairs{mean} (0.5 is as good), promote e-value "
        f"{_number(found.promote)} of {1 / level:.4g}"
    )


def _futile(found: MetricEvidence, rules: ReleaseRules, told: str) -> str:
    worse = ""
    if found.harm_now >= math.log(HARM_AT_FUTILITY):
        worse = f", and it is worse: harm e-value {_number(found.harm_now)} >= {HARM_AT_FUTILITY:g}"
    return (
        f"futility e-value {_number(found.futility)} >= {1 / rules.futility_level:g}: wins less "
        f"losses of {rules.smallest_effect / 2:g}, half of smallest_effect, are ruled out{worse} "
        f"({told})"
    )


def _number(log_e: float) -> str:
    return f"{math.exp(log_e):.4g}" if log_e < 50 else f"10^{log_e / math.log(10):.0f}"

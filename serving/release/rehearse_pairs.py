"""Whole comparisons in the shadow, many at once, through the very bets and decision of a live one.

Only prompts, answers and the judge are made up: an answer is good at its version's rate; of two
that differ the judge names the better one in `agreement` of the pairs, else the other; of two that
are alike it sees a tie in as many, and else one of them as better.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from everlearn.rules import ReleaseRules
from serving.release import pairs
from serving.release.accounts import pair_account
from serving.release.ahead import AGREEMENT
from serving.release.analysis import Floats
from serving.release.rehearse import DAY_SECONDS, Ends, Rates
from serving.release.seen import Seen, pairs_a_day
from serving.release.states import Phase
from serving.release.trial import BASE, TRAFFIC, Truth, first

PAIRS_A_LOOK = 10
"""The bets keep their peak, so no crossing is missed by looking seldom."""


class Shadow(NamedTuple):
    """What is supposed to be so."""

    rates: Rates
    """Of good answers."""
    agreement: float = 1.0
    """Share of the pairs in which the judge is right."""
    a_day: float = 2000.0
    """Pairs: persons with a prompt that both versions answered, in each epoch."""


def rehearse_pairs(
    rules: ReleaseRules, shadow: Shadow, *, alpha: float, runs: int, seed: int = 0
) -> Ends:
    """So many comparisons of one truth; a won one ends as promoted, without its ramp."""
    dice = np.random.default_rng(seed)
    account = pair_account(rules, runs)
    alive, phases = np.arange(runs), [Phase.RAMPING] * runs
    ends = Ends((), np.full(runs, np.inf), np.full(runs, np.inf), np.zeros(runs))
    count = 0
    while len(alive):
        for _ in range(PAIRS_A_LOOK):
            pairs.add(account, _judged(shadow, len(alive), dice))
        count += PAIRS_A_LOOK
        now = count / shadow.a_day * DAY_SECONDS
        over = [pairs.ends(each, rules, alpha, now) for each in account.evidences()]
        for run, phase in zip(alive, over, strict=True):
            if phase is not None:
                phases[run] = phase
                ends.units[run], ends.seconds[run] = count, now
        left = np.array([place for place, phase in enumerate(over) if phase is None], np.intp)
        account.keep(left)
        alive = alive[left]
    return ends._replace(phases=tuple(phases))


def compared(
    rules: ReleaseRules, truth: Truth, known: Seen, level: float, *, runs: int, seed: int = 0
) -> tuple[Ends, dict[str, Any], list[str]]:
    """As asked for, else as seen, else as usual: the ends, for programs and for people."""
    base = first(truth.base, known.means.get(rules.primary), BASE)
    traffic = first(truth.traffic, known.a_day or None, TRAFFIC)
    agreement = first(truth.judge_agreement, AGREEMENT)
    rates = Rates(base, min(1.0, max(0.0, base + truth.effect)))
    a_day = pairs_a_day(rules, traffic, truth.users)
    shadow = Shadow(rates, agreement, a_day)
    ends = rehearse_pairs(rules, shadow, alpha=level, runs=runs, seed=seed)
    result = told(shadow, level, ends)
    return ends, result, lines(result)


def _judged(shadow: Shadow, runs: int, dice: np.random.Generator) -> Floats:
    champion, candidate = (dice.random(runs) < rate for rate in shadow.rates)
    better = 0.5 + (candidate.astype(float) - champion) / 2
    right = dice.random(runs) < shadow.agreement
    coin = dice.integers(2, size=runs).astype(float)
    wrong = np.where(better == 0.5, coin, 1 - better)
    return np.where(right, better, wrong)


def told(shadow: Shadow, alpha: float, ends: Ends) -> dict[str, Any]:
    """Shares, days and pairs, in plain JSON types."""
    runs = len(ends.phases)
    won = np.array([phase is Phase.PROMOTED for phase in ends.phases])
    days = ends.seconds / DAY_SECONDS

    def middle(values: Floats, share: float) -> float | None:
        return round(float(np.quantile(values, share)), 3) if len(values) else None

    return {
        "runs": runs,
        "level": round(alpha, 5),
        "assumed": {**shadow._asdict(), "rates": list(shadow.rates)},
        "shares": {
            str(phase): ends.phases.count(phase) / runs
            for phase in (Phase.PROMOTED, Phase.STOPPED, Phase.INCONCLUSIVE)
        },
        "pairs": {"median": middle(ends.units, 0.5), "p80": middle(ends.units, 0.8)},
        "days": {"median": middle(days, 0.5), "p80": middle(days, 0.8)},
        "days_promoted": {"median": middle(days[won], 0.5), "p80": middle(days[won], 0.8)},
    }


def lines(result: Mapping[str, Any]) -> list[str]:
    """For people."""
    shares = ", ".join(f"{name} {share:.1%}" for name, share in result["shares"].items())
    assumed, days, pairs = result["assumed"], result["days"], result["pairs"]
    champion, candidate = assumed["rates"]
    return [
        f"{result['runs']} comparisons in the shadow at level {result['level']:g}: {shares}",
        f"in the median {days['median']:.2f} days and {pairs['median']:.0f} pairs; the slowest "
        f"fifth took {days['p80']:.2f} days or more; the ramp for harm comes on top",
        f"assumed: {assumed['a_day']:.0f} pairs a day, good answers {champion:.3g} -> "
        f"{candidate:.3g}, the judge right in {assumed['agreement']:.0%}",
    ]

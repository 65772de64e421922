"""How many shadow pairs, and days, a comparison takes: before it starts, and while it runs.

The formula of `ahead.py`, for pairs: a win is worth half a point more than a tie, a loss half less,
and what a judge gets wrong makes each pair say less. Medians lie within 25 % of those of
comparisons that are made up (`rehearse_pairs.py`).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from everlearn.lake.store import Lake
from everlearn.rules import ReleaseRules
from everlearn.task import Task
from serving.release.accounts import PAIRS, pair_account
from serving.release.ahead import AGREEMENT, EARLY, LATE, MEDIAN, pairs_needed, walked
from serving.release.analysis import Observation
from serving.release.outlook import EFFECTS, KNOWN_REQUESTS, KNOWN_SECONDS, points, span
from serving.release.pairs import PROPENSITY, line
from serving.release.seen import DAY_SECONDS, Seen, pairs_a_day, seen
from serving.release.states import Phase, Release
from serving.release.trial import BASE

WEAK = 0.8
"""A judge that is right less often, for comparison."""
FEW = 20
"""Pairs that say nothing yet of how many more it takes."""


class Takes(NamedTuple):
    """Until a version that is so much better is found."""

    effect: float
    pairs: int
    early: float
    """Seconds, here and below, of the quickest comparisons."""
    median: float
    late: float
    weak: float
    """In the median, of a judge that is right less often."""


class PairsOutlook(NamedTuple):
    """Before the start."""

    known: bool
    level: float
    judge: str = ""
    base_rate: float = BASE
    pairs_a_day: float = 0.0
    expected: tuple[Takes, ...] = ()
    refusal: str | None = None
    """Why it cannot decide in its time."""

    def lines(self, rules: ReleaseRules) -> list[str]:
        """For people."""
        if self.level <= 0:
            return []  # ungated: never promoted, as its reason says
        if not self.known:
            return [
                "nothing is known yet of how long the comparison takes: less than "
                f"{KNOWN_REQUESTS} requests or an hour of traffic in the last days"
            ]
        return [
            f"in the shadow first: {self.pairs_a_day:.0f} pairs a day of different users, compared "
            f"by {self.judge}, here taken to be right in {AGREEMENT:.0%} ({WEAK:.0%})",
            f"until it is found better, at level {self.level:.4g}, if the true gain is",
            *(
                f"  {points(each.effect)}: {each.pairs} pairs, {span(each.median)} "
                f"({span(each.weak)}); 8 in 10 within {span(each.late)}"
                for each in self.expected
            ),
            f"then a ramp that looks for harm alone: {len(rules.steps) - 1} steps of "
            f"{rules.min_dwell_seconds:g} s and {rules.min_units} units at least",
        ]

    def told(self) -> dict[str, Any]:
        """For programs."""
        found = self._asdict()
        found["expected"] = [
            {**each._asdict(), "days": each.median / DAY_SECONDS} for each in self.expected
        ]
        return found

    @property
    def refused(self) -> str | None:
        """Why it should not start."""
        return None if self.refusal is None else f"{self.refusal}. --anyway starts nevertheless"


def outlook(lake: Lake, task: Task, release: Release) -> PairsOutlook:
    """At the rules and the level of this release, of the traffic seen lately."""
    return foresee(release, seen(lake, task.task, release.parsed_rules))


def foresee(release: Release, known: Seen) -> PairsOutlook:
    """The same, of what was seen."""
    rules, level = release.parsed_rules, release.alpha
    assert rules.shadow_pairs is not None
    found = PairsOutlook(False, level, rules.shadow_pairs.judge)
    if known.seconds < KNOWN_SECONDS or known.requests < KNOWN_REQUESTS or level <= 0:
        return found
    base = known.means.get(rules.primary, BASE)
    a_day = pairs_a_day(rules, known.a_day, known.users)
    effects = sorted({min(effect, round(1 - base, 2)) for effect in EFFECTS["better"]} - {0.0})
    rows = tuple(_takes(base, effect, level, a_day) for effect in effects)
    found = found._replace(known=True, base_rate=base, pairs_a_day=a_day, expected=rows)
    if rows and rows[-1].early > rules.max_seconds:
        return found._replace(refusal=_refusal(rows[-1], rules, a_day))
    return found


def _takes(base: float, effect: float, level: float, a_day: float) -> Takes:
    def seconds(share: float, agreement: float = AGREEMENT) -> float:
        return pairs_needed(base, effect, agreement, level, share) / a_day * DAY_SECONDS

    pairs = math.ceil(pairs_needed(base, effect, AGREEMENT, level))
    weak = seconds(MEDIAN, WEAK)
    return Takes(effect, pairs, seconds(EARLY), seconds(MEDIAN), seconds(LATE), weak)


def _refusal(best: Takes, rules: ReleaseRules, a_day: float) -> str:
    return (
        f"even {points(best.effect)} could not be found by shadow pairs within release.max_seconds "
        f"{rules.max_seconds:g} ({span(rules.max_seconds)}): it takes about {best.pairs} of them, "
        f"{a_day:.0f} a day come: {span(best.median)}. What would decide: release.max_seconds: "
        f"{best.late:.0f} ({span(best.late)}; 8 in 10 are done)"
    )


PAIRED = f"""
    SELECT value FROM release_units
    WHERE release_id = ? AND metric = '{PAIRS}' AND value IS NOT NULL ORDER BY position
"""
"""Asked of the release id: the rows that `standing` reads."""


class InShadow(NamedTuple):
    """Where the pairs of a release stand."""

    pairs: int
    mean: float | None
    """1: the candidate is always better, 0.5: as good."""
    log_e: float
    """Of promote, the largest so far."""
    threshold: float
    """e-value that is wanted."""
    more: int | None
    """Pairs in the median, if it goes on as it looks now; None: not known, or not to be won so."""
    days: float | None
    days_left: float | None
    """Of `max_seconds`; None: the comparison is over."""
    told: str

    def line(self) -> str:
        """For people."""
        if self.days_left is None:
            return self.told
        end = f"max_seconds ends it in {span(self.days_left * DAY_SECONDS)}"
        if self.pairs < FEW:
            return f"{self.told}; {end}"
        if self.more is None or self.days is None:
            return f"{self.told}: not to be won by what it looks like; {end}"
        rest = f"; {end}" if self.days > self.days_left else ""
        return f"{self.told}: about {self.more} more, {span(self.days * DAY_SECONDS)}{rest}"


def standing(release: Release, rows: Sequence[Mapping[str, Any]], now: float) -> InShadow | None:
    """By the very bets that decide; None: nothing is compared in the shadow."""
    if not release.pairs_since or release.watch:
        return None
    rules = release.parsed_rules
    account = pair_account(rules)
    for row in rows:
        account.add(Observation(True, PROPENSITY, row["value"]))
    found = account.evidence()
    told = line(found, release.alpha)
    more = days = left = None
    if release.phase is Phase.PAIRING:
        elapsed = max(1.0, now - release.pairs_since)
        left = max(0.0, rules.max_seconds - elapsed) / DAY_SECONDS
        more = _more([row["value"] for row in rows], release.alpha)
        days = None if more is None else more / len(rows) * elapsed / DAY_SECONDS
    return InShadow(
        *(found.units, found.mean_candidate, found.promote, 1 / release.alpha),
        *(more, days, left, told),
    )


def _more(values: Sequence[float], level: float) -> int | None:
    if len(values) < FEW:
        return None
    gain = 2 * sum(value - 0.5 for value in values) / len(values)
    if gain <= 0:
        return None
    spread = sum((value - 0.5) ** 2 for value in values) / len(values)
    wanted = 4 * walked(gain, spread, level)
    # Who has not won though it was time has a way to go: at least a tenth of it.
    return math.ceil(max(wanted - len(values), wanted / 10))

"""Has a window changed? Pure: two lists of values per metric in, changes and alarms out.

Tests: rates by Fisher's exact test; each category like a rate, times the number of categories;
numbers by Kolmogorov and Smirnov's. None of them leans on an approximation that breaks far out in
the tail, where the levels are: the chi-square test and thresholds on PSI do.

Over a task's whole life, however often it is looked at, at most `budget` false alarms are expected:
look t may spend `budget / (0.217 (t + 100) ln(t + 100)^2)`, which sums to `budget` over all t,
shared evenly by the metrics of the look (Bonferroni). With a budget of 1 that is 0.2 % at the first
looks and 0.01 % at the thousandth. That holds whatever depends on what - metrics on each other,
looks on each other through the common reference - which online FDR procedures (LORD, SAFFRON) do
not give. It holds for windows whose rows are independent of each other, hence one row of a user.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from evaluators.drift.describe import Value, Values

MIN_ROWS = 50
"""Known values on either side, or the metric is not tested."""
MAX_CATEGORIES = 20
"""The rarer ones count as one."""
_HEAD = 100
"""Looks among which the budget is spent about evenly; after them it thins out."""
_SUM = 0.216912
"""Of 1 / (k ln(k)^2) over k = 101, 102, ..."""


class Change(NamedTuple):
    """One metric of a window against the reference."""

    metric: str
    kind: str
    """number, share or category"""
    before: float
    """Mean, or share; of a category the one in `detail`."""
    now: float
    shift: float
    """Share of the rows that moved, 0 to 1: the distance of Kolmogorov and Smirnov, the difference
    of two rates, or the total variation of categories."""
    p_value: float
    before_rows: int
    now_rows: int
    detail: str | None = None


def level(look: int, budget: float) -> float:
    """What look 1, 2, ... may spend of a life's expected false alarms."""
    at = look + _HEAD
    return budget / (_SUM * at * math.log(at) ** 2)


def changes(reference: Sequence[Values], window: Sequence[Values]) -> list[Change]:
    """Every metric that can be compared, the least likely first."""
    names = sorted({name for values in (*reference, *window) for name in values})
    before, now = ({name: _known(rows, name) for name in names} for rows in (reference, window))
    found = (compare(name, before[name], now[name]) for name in names)
    return sorted((each for each in found if each), key=lambda each: (each.p_value, -each.shift))


def alarms(found: Sequence[Change], spend: float, min_shift: float) -> list[Change]:
    """Those that are no chance at this look's level and large enough to matter."""
    each = spend / max(1, len(found))
    return [change for change in found if change.p_value <= each and change.shift >= min_shift]


def compare(metric: str, before: Sequence[Value], now: Sequence[Value]) -> Change | None:
    """None where too little is known, or where nothing could have changed: one value throughout.

    That looks at both sides as one, so it favours neither.
    """
    if min(len(before), len(now)) < MIN_ROWS or len({*before, *now}) < 2:
        return None
    sizes = len(before), len(now)
    if isinstance(now[0], str):
        return _categories(metric, [str(v) for v in before], [str(v) for v in now], sizes)
    if isinstance(now[0], bool):
        hits = sum(map(bool, before)), sum(map(bool, now))
        rates = hits[0] / len(before), hits[1] / len(now)
        p_value = fisher(hits[0], len(before), hits[1], len(now))
        return Change(metric, "share", *rates, abs(rates[1] - rates[0]), p_value, *sizes)
    return _numbers(metric, before, now, sizes)


def fisher(hits: int, rows: int, other_hits: int, other_rows: int) -> float:
    """Two-sided p-value of two rates: twice the smaller exact tail."""
    from scipy.stats import hypergeom

    margins = (rows + other_rows, hits + other_hits, other_rows)
    tails = (hypergeom.cdf(other_hits, *margins), hypergeom.sf(other_hits - 1, *margins))
    return float(min(1.0, 2 * min(tails)))


def _known(rows: Sequence[Values], name: str) -> list[Value]:
    return [value for values in rows if (value := values.get(name)) is not None]


def _numbers(
    metric: str, before: Sequence[Any], now: Sequence[Any], sizes: tuple[int, int]
) -> Change:
    from scipy.stats import ks_2samp

    found = ks_2samp(before, now, method="asymp")
    means = math.fsum(before) / len(before), math.fsum(now) / len(now)
    distance, p_value = float(found.statistic), float(found.pvalue)
    return Change(metric, "number", *means, distance, p_value, *sizes)


def _categories(
    metric: str, before: Sequence[str], now: Sequence[str], sizes: tuple[int, int]
) -> Change:
    frequent = [name for name, _ in Counter((*before, *now)).most_common(MAX_CATEGORIES)]
    counts = [Counter(name if name in frequent else "other" for name in s) for s in (before, now)]
    names = sorted({*counts[0], *counts[1]})
    p_values = {
        name: fisher(counts[0][name], len(before), counts[1][name], len(now)) for name in names
    }
    rates = {name: (counts[0][name] / len(before), counts[1][name] / len(now)) for name in names}
    most = min(names, key=lambda name: (p_values[name], -abs(rates[name][0] - rates[name][1])))
    moved = sum(abs(one - other) for one, other in rates.values()) / 2
    p_value = min(1.0, p_values[most] * len(names))
    return Change(metric, "category", *rates[most], moved, p_value, *sizes, most)

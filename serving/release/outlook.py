"""What a release can expect of the traffic at hand, in days, before it starts and while it ramps.

- Where little was seen nothing is said, and nothing refused.
- What cannot be decided within `max_seconds` even at the largest gain is refused, with what would
  decide it.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from everlearn.coverage import first_on_every_answer, needs_people
from everlearn.lake.store import Lake
from everlearn.rules import ReleaseRules
from everlearn.task import Task
from serving.release.accounts import questions
from serving.release.ahead import MEDIAN, Expected, Pace, expected, information
from serving.release.decide import last_stage
from serving.release.seen import DAY_SECONDS, Seen, Stretch, busiest, seen
from serving.release.states import Phase, Release

EFFECTS = {"better": (0.05, 0.10, 0.20), "not_worse": (0.0, 0.05, 0.20)}
KNOWN_SECONDS, KNOWN_REQUESTS = 3600.0, 300
"""Less traffic says nothing of a day."""


class Outlook(NamedTuple):
    """Before the start."""

    known: bool
    """Whether enough traffic was seen; if not, there is nothing else."""
    metric: str
    level: float
    base_rate: float = 0.5
    seconds: float = 0.0
    """Of the busiest stretch that was seen, at most as long as a release may last."""
    units_a_day: float = 0.0
    heard_a_day: float = 0.0
    """Units that the primary metric hears of."""
    expected: tuple[Expected, ...] = ()
    refusal: str | None = None
    """Why it cannot decide in its time."""
    proposals: tuple[str, ...] = ()
    """What would."""

    def lines(self, rules: ReleaseRules) -> list[str]:
        """For people."""
        if self.level <= 0:
            return []  # ungated: never promoted, as its reason says
        if not self.known:
            return [
                f"nothing is known yet of how long it takes: less than {KNOWN_REQUESTS} requests "
                f"or an hour of traffic that {self.metric} heard of, in the last days"
            ]
        head = (
            f"champion's {self.metric} {self.base_rate:.2f}; in the busiest {_span(self.seconds)} "
            f"lately {self.units_a_day:.0f} units a day, {self.metric} heard of "
            f"{self.heard_a_day:.0f} a day"
        )
        rows = [head, f"until it is promoted, at level {self.level:.4g}, if the true gain is"]
        return rows + [
            f"  {_points(each.effect)}: {_row(each, self.metric, rules)}" for each in self.expected
        ]

    def told(self) -> dict[str, Any]:
        """For programs."""
        found = self._asdict()
        found["expected"] = [
            {**each._asdict(), "days": None if each.median is None else each.median / DAY_SECONDS}
            for each in self.expected
        ]
        return found

    @property
    def refused(self) -> str | None:
        """The whole sentence."""
        if self.refusal is None:
            return None
        ways = "; ".join(self.proposals) or "more traffic"
        return f"{self.refusal}. What would decide: {ways}. --anyway starts nevertheless"


def outlook(lake: Lake, task: Task, release: Release) -> Outlook:
    """At the rules and the level of this release."""
    rules = release.parsed_rules
    stretch = busiest(lake, task.task, rules)
    return foresee(task, release, stretch, seen(lake, task.task, rules))


def foresee(task: Task, release: Release, stretch: Stretch, known: Seen) -> Outlook:
    """The same, of what was seen."""
    rules, level = release.parsed_rules, release.alpha
    found = Outlook(False, rules.primary, level)
    enough = stretch.history_seconds >= KNOWN_SECONDS and stretch.history_requests >= KNOWN_REQUESTS
    if not enough or level <= 0 or last_stage(rules) < 0:
        return found
    pace = _pace(task, rules, stretch, known)
    base = known.means[rules.primary]
    effects = sorted({min(effect, round(1 - base, 2)) for effect in EFFECTS[rules.goal]})
    rows = tuple(expected(rules, level, pace, effect) for effect in effects)
    found = found._replace(
        known=True,
        base_rate=base,
        seconds=stretch.seconds,
        units_a_day=pace.a_second * DAY_SECONDS,
        heard_a_day=pace.heard * DAY_SECONDS,
        expected=rows,
    )
    best = rows[-1]
    if best.early is not None and best.early <= rules.max_seconds:
        return found
    ways = tuple(_ways(task, release, best, lambda other: _pace(task, other, stretch, known)))
    return found._replace(refusal=_refusal(found, best, rules), proposals=ways)


def _pace(task: Task, rules: ReleaseRules, stretch: Stretch, known: Seen) -> Pace:
    """A grader that waits for nobody hears of every unit, once a release runs."""
    a_second = stretch.units / stretch.seconds
    asks = needs_people(task.grader(rules.primary), task.graders)
    return Pace(a_second, stretch.heard / stretch.seconds if asks else a_second, known.means)


def _refusal(found: Outlook, best: Expected, rules: ReleaseRules) -> str:
    gain = f"even {_points(best.effect)}"
    if best.median is None or best.units is None:
        return f"{gain} is never proven: {_too_small(rules, best.effect)}"
    return (
        f"{gain} could not be proven within release.max_seconds {rules.max_seconds:g} "
        f"({_span(rules.max_seconds)}): it takes about {best.units} units that {found.metric} "
        f"hears of, {found.heard_a_day:.0f} a day come: {_span(best.median)}"
    )


def _ways(
    task: Task, release: Release, best: Expected, pace: Callable[[ReleaseRules], Pace]
) -> Iterator[str]:
    """What would decide at the same gain, each tried by the same formula."""
    rules = release.parsed_rules

    def takes(**changed: Any) -> float | None:
        other = rules.model_copy(update=changed)
        return expected(other, release.alpha, pace(other), best.effect).median

    every = first_on_every_answer(task.graders)
    if every is not None and every != rules.primary:
        days = takes(primary=every, co_primary=None)
        if days is not None and days <= rules.max_seconds:
            yield f"release.primary: {every}, which scores every answer ({_span(days)})"
    if rules.beside is not None:
        days = takes(co_primary=None)
        if days is not None and days <= rules.max_seconds:
            yield f"--trust-raters, if users answer alike whoever served them ({_span(days)})"
    if best.late is not None and best.median is not None:
        yield f"release.max_seconds: {best.late:.0f} ({_span(best.late)}; 8 in 10 are done)"
        if best.limit == "max_seconds" and pace(rules).heard < pace(rules).a_second:
            times = best.median / rules.max_seconds
            yield f"{times:.1f} times as much feedback"
    if best.median is None and rules.goal == "better":
        yield "release.goal: not_worse, if there is little to gain"


class Remaining(NamedTuple):
    """Of a ramping release, if its effect is what it looks like now."""

    effect: float
    units: int | None
    """More, in the median; None: not to be proven at this effect."""
    days: float | None
    days_left: float
    """Of `max_seconds`."""

    def line(self) -> str:
        """For people."""
        now = f"if it is worth {100 * self.effect:+.1f} points, as it looks now"
        end = f"max_seconds ends it in {_span(self.days_left * DAY_SECONDS)}"
        if self.units is None or self.days is None:
            return f"{now}: not to be promoted; {end}"
        rest = f"; {end}" if self.days > self.days_left else ""
        return f"{now}: about {self.units} more units, {_span(self.days * DAY_SECONDS)}{rest}"


REMAINING = """
    SELECT propensity,
        count(value) FILTER (treated) AS candidates, avg(value) FILTER (treated) AS candidate,
        count(value) FILTER (NOT treated) AS champions, avg(value) FILTER (NOT treated) AS champion
    FROM release_units
    WHERE release_id = ? AND metric = ? AND value IS NOT NULL AND propensity IS NOT NULL
    GROUP BY propensity
"""
"""Asked of release id and primary metric: the rows that `remaining` reads."""


def remaining(release: Release, rows: Sequence[Mapping[str, Any]], now: float) -> Remaining | None:
    """Arms are compared within a propensity, as a pooled difference is wrong under a ramp; None:
    it does not ramp, is never promoted, or one arm has nothing yet."""
    both = [row for row in rows if row["candidates"] and row["champions"]]
    if release.phase is not Phase.RAMPING or release.alpha <= 0 or not both:
        return None
    rules = release.parsed_rules
    weights = [1 / (1 / row["candidates"] + 1 / row["champions"]) for row in both]
    weighed = list(zip(weights, both, strict=True))
    effect = sum(w * (row["candidate"] - row["champion"]) for w, row in weighed) / sum(weights)
    base = sum(w * row["champion"] for w, row in weighed) / sum(weights)
    wanted = information(questions(rules)[1], base, effect, release.alpha, MEDIAN)
    units = {row["propensity"]: row["candidates"] + row["champions"] for row in rows}
    has = sum(pi * (1 - pi) * count for pi, count in units.items())
    elapsed = max(1.0, now - release.ramp_since)
    left = max(0.0, rules.max_seconds - elapsed) / DAY_SECONDS
    if math.isinf(wanted):
        return Remaining(effect, None, None, left)
    share = rules.steps[last_stage(rules)] / 100
    # Who is not promoted though it was time has a way to go: at least a tenth of it.
    more = math.ceil(max(wanted - has, wanted / 10) / (share * (1 - share)))
    return Remaining(effect, more, more / sum(units.values()) * elapsed / DAY_SECONDS, left)


def _too_small(rules: ReleaseRules, effect: float) -> str:
    """Why an effect is beyond no proof."""
    faked = questions(rules)[1].h0
    if effect <= 0 or faked <= 0:
        return "there is nothing left to gain"
    return (
        f"{100 * faked:.1f} points could be faked by who answers "
        f"(release.response_bias {rules.response_bias:g})"
    )


def _row(each: Expected, metric: str, rules: ReleaseRules) -> str:
    if each.median is None or each.late is None:
        return f"never: {_too_small(rules, each.effect)}"
    limit = {
        metric: "",
        "max_seconds": "; max_seconds comes first",
    }.get(each.limit, f"; {each.limit} takes longest")
    return f"{_span(each.median)} ({_span(each.late)} for 8 in 10), {each.units} units{limit}"


def _points(effect: float) -> str:
    return f"{100 * effect:+.0f} points" if effect else "equal"


def _span(seconds: float) -> str:
    if seconds >= DAY_SECONDS / 2:
        return f"{seconds / DAY_SECONDS:.1f} days"
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 60:.0f} minutes"

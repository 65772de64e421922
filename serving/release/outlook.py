"""What a release can expect of the traffic at hand, in days, before it starts and while it ramps.

- Where little was seen nothing is said, and nothing refused.
- What cannot be decided within `max_seconds` even at the largest gain is refused, with what would
  decide it.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from everlearn.coverage import first_on_every_answer, needs_people
from everlearn.graders import PairwiseModel
from everlearn.lake.store import Lake
from everlearn.rules import ReleaseRules
from everlearn.task import Task
from serving.release.accounts import others, questions
from serving.release.ahead import (
    AGREEMENT,
    MEDIAN,
    Expected,
    Pace,
    expected,
    information,
    pairs_needed,
)
from serving.release.analysis import Question
from serving.release.decide import last_stage
from serving.release.seen import (
    DAY_SECONDS,
    RECENT_DAYS,
    Seen,
    Stretch,
    audible,
    busiest,
    pairs_a_day,
    seen,
    unsaid,
)
from serving.release.states import Phase, Release

EFFECTS = {"better": (0.05, 0.10, 0.20), "not_worse": (0.0, 0.05, 0.20)}
UNITS = {
    "user": "if every user keeps his version",
    "auto": "if a user may meet both versions in his conversations",
    "conversation": "if a user may meet both versions, one in each conversation",
    "request": "if requests know nothing of each other",
}
"""Choices of `release.unit` and what they ask for, the most cautious first."""
KNOWN_SECONDS, KNOWN_REQUESTS = 3600.0, 300
"""Less traffic says nothing of a day."""
LOUD = 0.8
"""Where less than this is left of what users say, it is told."""


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
    audible: float = 1.0
    """Share of the units that users spoke of that is so many, of one user's share."""
    expected: tuple[Expected, ...] = ()
    by_unit: Mapping[str, float | None] = {}
    """Seconds in the median at the largest gain, for each choice of `release.unit`."""
    refusal: str | None = None
    """Why it cannot decide in its time."""
    proposals: tuple[str, ...] = ()
    """What would."""

    def lines(self, rules: ReleaseRules) -> list[str]:
        """For people."""
        if self.level <= 0:
            return []  # ungated: never promoted, as its reason says
        if not self.known and self.refusal is not None:
            return []
        if not self.known:
            return [
                f"nothing is known yet of how long it takes: less than {KNOWN_REQUESTS} requests "
                f"or an hour of traffic that {self.metric} heard of, in the last days"
            ]
        head = (
            f"champion's {self.metric} {self.base_rate:.2f}; in the busiest {span(self.seconds)} "
            f"lately {self.units_a_day:.0f} units a day, {self.metric} heard of "
            f"{self.heard_a_day:.0f} a day"
        )
        few = (
            f"({self.audible:.0%} of what users say: of one user who speaks for many units only "
            "trust.max_share_per_rater of them are heard; a key that passes on its users' names "
            "wants --may-speak-for users)"
        )
        rows = [
            head,
            *([few] if self.audible < LOUD else []),
            f"until it is promoted, at level {self.level:.4g}, if the true gain is",
        ]
        rows += [
            f"  {points(each.effect)}: {_row(each, self.metric, rules)}" for each in self.expected
        ]
        times = [
            f"{unit} {'never' if seconds is None else span(seconds)}"
            for unit, seconds in self.by_unit.items()
        ]
        if len(set(self.by_unit.values())) > 1:
            best = points(self.expected[-1].effect)
            rows.append(f"  {best} by release.unit (now {rules.unit}): {', '.join(times)}")
        return rows

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
    known = seen(lake, task.task, rules)
    if release.alpha > 0 and _busy(known) and rules.primary not in known.means:
        missing = unsaid(lake, task, rules.primary)
        if missing:
            return _silent(task, release, known, missing)
    stretches = {}
    for unit in UNITS:
        other = rules.model_copy(update={"unit": unit})
        share, fair = audible(lake, task, other)
        stretch = busiest(lake, task.task, other)
        stretches[unit] = stretch._replace(audible=share, fair_share=fair)
    return foresee(task, release, stretches[rules.unit], known, stretches=stretches)


def _busy(known: Seen) -> bool:
    return known.seconds >= KNOWN_SECONDS and known.requests >= KNOWN_REQUESTS


def _silent(task: Task, release: Release, known: Seen, missing: Sequence[str]) -> Outlook:
    """Of a primary metric that nobody emits."""
    primary = release.parsed_rules.primary
    every = first_on_every_answer(task.graders)
    ways = [
        f"feedback named {' or '.join(missing)}",
        *([f"release.primary: {every}, which scores every answer"] if every else []),
        *_in_shadow(task, release, EFFECTS["better"][-1], known),
    ]
    refusal = (
        f"release.primary {primary} waits for feedback named {', '.join(missing)}, and in "
        f"{known.requests} requests of the last {RECENT_DAYS} days nobody has given any"
    )
    return Outlook(False, primary, release.alpha, refusal=refusal, proposals=tuple(ways))


def foresee(
    task: Task,
    release: Release,
    stretch: Stretch,
    known: Seen,
    *,
    stretches: Mapping[str, Stretch] = MappingProxyType({}),
) -> Outlook:
    """The same, of what was seen; `stretches`: as it would be by other choices of the unit."""
    rules, level = release.parsed_rules, release.alpha
    found = Outlook(False, rules.primary, level)
    enough = stretch.history_seconds >= KNOWN_SECONDS and stretch.history_requests >= KNOWN_REQUESTS
    if not enough or level <= 0 or last_stage(rules) < 0:
        return found
    pace = _pace(task, release, stretch, known)
    base = known.means[rules.primary]
    effects = sorted({min(effect, round(1 - base, 2)) for effect in EFFECTS[rules.goal]})
    rows = tuple(expected(rules, level, pace, effect) for effect in effects)
    found = found._replace(
        known=True,
        base_rate=base,
        seconds=stretch.seconds,
        units_a_day=pace.a_second * DAY_SECONDS,
        heard_a_day=pace.heard * DAY_SECONDS,
        audible=stretch.audible,
        expected=rows,
    )
    best = rows[-1]
    if stretches:
        found = found._replace(by_unit=_by_unit(task, release, best, stretches, known))
    if best.early is not None and best.early <= rules.max_seconds:
        return found

    def paced(other: ReleaseRules, heard: float = 0.0) -> Pace:
        there = stretches.get(other.unit, stretch)
        stretch_then = there._replace(audible=max(heard, there.audible))
        return _pace(task, release, stretch_then, known, rules=other)

    drawn = _redrawn(release, best, stretches, paced)
    ways = (
        *drawn,
        *_in_shadow(task, release, best.effect, known),
        *_ways(task, release, best, paced),
    )
    return found._replace(refusal=_refusal(found, best, rules), proposals=ways)


def _pace(
    task: Task,
    release: Release,
    stretch: Stretch,
    known: Seen,
    *,
    rules: ReleaseRules | None = None,
) -> Pace:
    """By the release's own rules or others. A grader that waits for nobody hears of every unit,
    once a release runs."""
    rules = rules or release.parsed_rules
    a_second = stretch.units / stretch.seconds
    asks = needs_people(task.grader(rules.primary), task.graders)
    heard = stretch.audible * stretch.heard / stretch.seconds
    if rules.labels is not None and release.label_share is not None:
        # Of labels it wants as many as of thumbs; what the judge saves was seen before the start.
        labelled = a_second * release.label_share * release.label_worth
        return Pace(a_second, labelled, known.means, release.challengers)
    return Pace(a_second, heard if asks else a_second, known.means, release.challengers)


def _by_unit(
    task: Task, release: Release, best: Expected, stretches: Mapping[str, Stretch], known: Seen
) -> dict[str, float | None]:
    """How long the largest gain takes by each choice."""
    rules = release.parsed_rules
    paces = {unit: _pace(task, release, each, known) for unit, each in stretches.items()}
    return {
        unit: expected(rules, release.alpha, pace, best.effect).median
        for unit, pace in paces.items()
    }


def _redrawn(
    release: Release,
    best: Expected,
    stretches: Mapping[str, Stretch],
    pace: Callable[[ReleaseRules, float], Pace],
) -> Iterator[str]:
    """Another choice of the unit that decides, the one that a user would notice least."""
    rules = release.parsed_rules
    for heard in (0.0, 1.0):
        for unit, stretch in stretches.items():
            other = rules.model_copy(update={"unit": unit})
            takes = expected(other, release.alpha, pace(other, heard), best.effect).median
            if takes is None or takes > rules.max_seconds:
                continue
            asked = [] if unit == rules.unit else [f"release.unit: {unit}, {UNITS[unit]}"]
            if heard:
                share = math.ceil(100 * stretch.fair_share) / 100
                asked.append(f"trust.max_share_per_rater: {share:g}, if you trust every user")
            if asked:
                yield f"{'; with '.join(asked)} ({span(takes)})"
                return


def _in_shadow(task: Task, release: Release, effect: float, known: Seen) -> Iterator[str]:
    """Pairs that a judge of the task compares, where they decide at the same gain."""
    rules = release.parsed_rules
    judges = [each.name for each in task.graders if isinstance(each, PairwiseModel)]
    if not judges or rules.goal != "better" or effect <= 0 or not known.a_day:
        return
    base = known.means.get(rules.primary, 0.5)
    pairs = pairs_needed(base, effect, AGREEMENT, release.alpha)
    takes = pairs / pairs_a_day(rules, known.a_day, known.users) * DAY_SECONDS
    if takes <= rules.max_seconds:
        yield (
            f"release.shadow_pairs: {{judge: {judges[0]}}}, if people agree with it in "
            f"{AGREEMENT:.0%} ({span(takes)})"
        )


def _refusal(found: Outlook, best: Expected, rules: ReleaseRules) -> str:
    gain = f"even {points(best.effect)}"
    if best.median is None or best.units is None:
        return f"{gain} is never proven: {_too_small(rules, best.effect)}"
    return (
        f"{gain} could not be proven within release.max_seconds {rules.max_seconds:g} "
        f"({span(rules.max_seconds)}): it takes about {best.units} units that {found.metric} "
        f"hears of, {found.heard_a_day:.0f} a day come: {span(best.median)}"
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
        days = takes(primary=every, co_primary=None, labels=None)
        if days is not None and days <= rules.max_seconds:
            yield f"release.primary: {every}, which scores every answer ({span(days)})"
    if rules.beside is not None:
        days = takes(co_primary=None)
        if days is not None and days <= rules.max_seconds:
            yield f"--trust-raters, if users answer alike whoever served them ({span(days)})"
    if best.late is not None and best.median is not None:
        yield f"release.max_seconds: {best.late:.0f} ({span(best.late)}; 8 in 10 are done)"
        if best.limit == "max_seconds" and pace(rules).heard < pace(rules).a_second:
            times = best.median / rules.max_seconds
            yield f"{times:.1f} times as much feedback"
    if best.median is None and rules.goal == "better":
        yield "release.goal: not_worse, if there is little to gain"


class Remaining(NamedTuple):
    """Of a ramping release, if its effects are what they look like now."""

    effect: float
    """On the primary metric."""
    metric: str
    """Of all that must be shown what takes longest, or is not to be shown."""
    units: int | None
    """More of that metric's, in the median; None: not to be shown at what it looks like."""
    days: float | None
    days_left: float
    """Of `max_seconds`."""

    def line(self) -> str:
        """For people."""
        now = f"if it is worth {100 * self.effect:+.1f} points, as it looks now"
        end = f"max_seconds ends it in {span(self.days_left * DAY_SECONDS)}"
        if self.units is None or self.days is None:
            return f"{now}: not to be promoted, by what {self.metric} looks like; {end}"
        rest = f"; {end}" if self.days > self.days_left else ""
        took = span(self.days * DAY_SECONDS)
        return f"{now}: about {self.units} more units of {self.metric}, {took}{rest}"


REMAINING = """
    SELECT metric, propensity,
        count(value) FILTER (treated) AS candidates, avg(value) FILTER (treated) AS candidate,
        count(value) FILTER (NOT treated) AS champions, avg(value) FILTER (NOT treated) AS champion
    FROM (
        -- Where people correct a judge, by their labels alone: the judge may save some of them.
        SELECT * REPLACE (CASE WHEN label_share IS NULL THEN value ELSE label END AS value)
        FROM release_units
    )
    WHERE release_id = ? AND value IS NOT NULL AND propensity IS NOT NULL
    GROUP BY metric, propensity
"""
"""Asked of the release id: the rows that `remaining` reads."""


def remaining(release: Release, rows: Sequence[Mapping[str, Any]], now: float) -> Remaining | None:
    """The longest way of all that a promotion must be shown; None: it does not ramp, is never
    promoted, or one arm has nothing yet on some of it."""
    if release.phase is not Phase.RAMPING or release.alpha <= 0 or release.paired is not None:
        return None
    rules = release.parsed_rules
    asked = {rules.primary: questions(rules)[1]}
    asked |= {name: others(rules, name)[-1] for name in (rules.beside, rules.wins) if name}
    ways = []
    for name, question in asked.items():
        way = _way(name, question, release.alpha, [row for row in rows if row["metric"] == name])
        if way is None:
            return None
        ways.append(way)
    elapsed = max(1.0, now - release.ramp_since)
    left = max(0.0, rules.max_seconds - elapsed) / DAY_SECONDS
    step = rules.steps[last_stage(rules)] / 100
    share = step / (step + release.challengers * (1 - step))
    # A metric that hears of half as many units takes twice as long for as many.
    longest = max(ways, key=lambda way: way.lacks / way.units)
    if math.isinf(longest.wanted):
        return Remaining(ways[0].effect, longest.metric, None, None, left)
    # Who is not promoted though it was time has a way to go: at least a tenth of it.
    more = math.ceil(max(longest.lacks, longest.wanted / 10) / (share * (1 - share)))
    days = more / longest.units * elapsed / DAY_SECONDS
    return Remaining(ways[0].effect, longest.metric, more, days, left)


class _Way(NamedTuple):
    """To the answer of one metric's question, in information."""

    metric: str
    effect: float
    units: int
    wanted: float
    lacks: float


def _way(
    name: str, question: Question, level: float, rows: Sequence[Mapping[str, Any]]
) -> _Way | None:
    """Arms are compared within a propensity, as a pooled difference is wrong under a ramp."""
    both = [row for row in rows if row["candidates"] and row["champions"]]
    if not both:
        return None
    weights = [1 / (1 / row["candidates"] + 1 / row["champions"]) for row in both]
    weighed = list(zip(weights, both, strict=True))
    effect = sum(w * (row["candidate"] - row["champion"]) for w, row in weighed) / sum(weights)
    base = sum(w * row["champion"] for w, row in weighed) / sum(weights)
    wanted = information(question, base, effect, level, MEDIAN)
    units = {row["propensity"]: row["candidates"] + row["champions"] for row in rows}
    has = sum(pi * (1 - pi) * count for pi, count in units.items())
    return _Way(name, effect, sum(units.values()), wanted, wanted - has)


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
    return f"{span(each.median)} ({span(each.late)} for 8 in 10), {each.units} units{limit}"


def points(effect: float) -> str:
    return f"{100 * effect:+.0f} points" if effect else "equal"


def span(seconds: float) -> str:
    if seconds >= DAY_SECONDS / 2:
        return f"{seconds / DAY_SECONDS:.1f} days"
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 60:.0f} minutes"

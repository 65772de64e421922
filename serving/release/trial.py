"""Thousands of releases by one task's own rules: what they would do if this were true.

The very Accounts and `decide` of a live release (`rehearse`); only traffic and people are made up,
as asked for, else as seen lately, else by the defaults here.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from everlearn.coverage import needs_people
from everlearn.rules import ReleaseRules
from everlearn.task import Task
from serving.release.rehearse import Ends, Labelling, Pace, People, Rates, rehearse
from serving.release.seen import DAY_SECONDS, Seen
from serving.release.states import Phase

USUAL = {"error_rate": 0.99, "latency_p95": 0.95, "cost": 0.5, "latency": 0.5}
"""Means of the champion where nothing was seen; of any grader beside the primary 0.97."""
TRAFFIC, BASE, ANSWERING = 2000.0, 0.6, 0.03
CHEAPER = 0.45
"""By how much what is to be won gets better, as a share of its range."""


class Truth(NamedTuple):
    """What is supposed to be so; None: as seen."""

    effect: float = 0.0
    traffic: float | None = None
    """Requests a day."""
    users: int | None = None
    """None: everybody comes once."""
    conversation: float | None = None
    """Requests in one, of users who return."""
    base: float | None = None
    answering: float | None = None
    """Share of the requests that the primary metric hears of."""
    response_bias: float = 1.0
    """How many times as often the candidate's satisfied users answer."""
    judge_agreement: float | None = None
    """How often the metric of every answer says what a person would; None: it sees no difference,
    or is the primary and always right."""
    slower_seconds: float = 0.0
    label_share: float | None = None
    """Of the answers, labelled by people, where `release.labels` asks them; None: all of the task's
    random share."""
    judge_favour: float = 0.0
    """How much oftener the judge that they correct finds the candidate's answers good, whatever
    they are worth."""


class Trial(NamedTuple):
    """The rules and the truth they are tried on."""

    rules: ReleaseRules
    rates: Mapping[str, Rates]
    people: People
    pace: Pace
    level: float

    def run(self, runs: int, seed: int = 0) -> Ends:
        """So many releases."""
        return rehearse(
            self.rules, self.rates, alpha=self.level, runs=runs,
            people=self.people, pace=self.pace, seed=seed,
        )  # fmt: skip


def trial(task: Task, truth: Truth, known: Seen, level: float) -> Trial:
    """As asked for, else as seen, else as usual."""
    rules = task.release_rules
    asks = needs_people(task.grader(rules.primary), task.graders)
    base = first(truth.base, known.means.get(rules.primary), BASE)
    heard = known.heard.get(rules.primary)
    answering = first(truth.answering, heard, ANSWERING if asks else 1.0)
    good = Rates(base, min(1.0, max(0.0, base + truth.effect)))
    agreement = truth.judge_agreement
    labels = _labelling(task, truth)
    rates = {rules.primary: good}
    if agreement is not None and labels is None and not asks:
        rates[rules.primary] = _judged(good, agreement)
    for name in rules.metrics:
        if name == rules.beside and agreement is not None:
            rates[name] = _judged(good, agreement)
            continue
        usual = first(known.means.get(name), USUAL.get(name), 0.97)
        won = CHEAPER if name == rules.wins else 0.0
        rates[name] = Rates(usual, min(1.0, usual + won))
    people = People(
        answering=answering,
        satisfied=truth.response_bias,
        users=truth.users,
        redrawn=_redrawn(rules, truth, known),
        labels=labels,
    )
    a_day = first(truth.traffic, known.a_day or None, TRAFFIC)
    pace = Pace(
        units_per_second=a_day / DAY_SECONDS,
        slower_seconds=truth.slower_seconds,
        epoch_seconds=rules.epoch_seconds or None,
    )
    return Trial(rules, rates, people, pace, level)


def _labelling(task: Task, truth: Truth) -> Labelling | None:
    """How people label, where they correct the primary metric."""
    if task.release.labels is None:
        return None
    usual = Labelling()
    return Labelling(
        share=first(truth.label_share, task.labels.random_percent / 100),
        agreement=first(truth.judge_agreement, usual.agreement),
        favour=truth.judge_favour,
        wait_seconds=task.release.closing_seconds,
    )


def _redrawn(rules: ReleaseRules, truth: Truth, known: Seen) -> float:
    """At which share of his requests a user who returns is drawn anew."""
    if rules.unit in ("user", "request"):
        return float(rules.unit == "request")
    if truth.conversation is not None:
        return 1 / truth.conversation
    if not known.requests:
        return float(rules.unit == "conversation")
    alone = known.unnamed if rules.unit == "conversation" else 0
    return (known.conversations + alone) / known.requests


def first(*values: float | None) -> float:
    """The first that is known."""
    return next(value for value in values if value is not None)


def _judged(truth: Rates, agreement: float) -> Rates:
    """What a judge says of answers that are good at these rates."""
    return Rates(*(agreement * rate + (1 - agreement) * (1 - rate) for rate in truth))


def told(asked: Trial, ends: Ends) -> dict[str, Any]:
    """Shares, days, units and what it cost people, in plain JSON types."""
    runs = len(ends.phases)
    promoted = [phase is Phase.PROMOTED for phase in ends.phases]
    primary = asked.rates[asked.rules.primary]
    lost = max(0.0, primary.champion - primary.candidate)
    days = ends.seconds / DAY_SECONDS
    labels = asked.people.labels
    return {
        "runs": runs,
        "level": round(asked.level, 5),
        "assumed": {
            "requests_a_day": round(asked.pace.units_per_second * DAY_SECONDS, 1),
            "rates": {name: list(rates) for name, rates in asked.rates.items()},
            **asked.people._asdict(),
            "labels": labels and labels._asdict(),
        },
        "shares": {
            str(phase): ends.phases.count(phase) / runs
            for phase in (Phase.PROMOTED, Phase.ROLLED_BACK, Phase.STOPPED, Phase.INCONCLUSIVE)
        },
        "days": quantiles(days),
        "days_promoted": quantiles(days[promoted]),
        "units": quantiles(ends.units),
        "answered_by_the_candidate": quantiles(ends.exposed),
        "worse_answers": round(float(ends.exposed.mean()) * lost, 2),
    }


def quantiles(values: Any) -> dict[str, float | None]:
    """Median and 80 %."""
    if not len(values):
        return {"median": None, "p80": None}
    found = np.quantile(values, (0.5, 0.8), method="inverted_cdf")
    return {name: round(float(v), 3) for name, v in zip(("median", "p80"), found, strict=True)}


def lines(result: Mapping[str, Any]) -> list[str]:
    """For people."""
    shares = ", ".join(f"{name} {share:.1%}" for name, share in result["shares"].items())
    assumed, days, units = result["assumed"], result["days"], result["units"]
    return [
        f"{result['runs']} releases at level {result['level']:g}: {shares}",
        f"in the median {days['median']:.2f} days and {units['median']:.0f} units that were heard "
        f"of; the slowest fifth took {days['p80']:.2f} days or more",
        f"the candidate gave {result['answered_by_the_candidate']['median']:.0f} answers in the "
        f"median; {result['worse_answers']:g} were worse for it in the mean",
        f"assumed: {assumed['requests_a_day']:g} requests a day, "
        + ", ".join(f"{name} {a:.3g} -> {b:.3g}" for name, (a, b) in assumed["rates"].items()),
        *_labels(assumed["labels"]),
    ]


def _labels(assumed: Mapping[str, float] | None) -> list[str]:
    if assumed is None:
        return []
    return [
        f"people label {assumed['share']:.1%} of the answers, the judge says the same in "
        f"{assumed['agreement']:.0%} and favours the candidate by {100 * assumed['favour']:g} "
        f"points; a label is waited for {assumed['wait_seconds'] / 3600:g} hours"
    ]

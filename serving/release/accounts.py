"""The evidence of one release, folded unit by unit from its frozen rows."""

import math
from collections.abc import Iterable
from typing import Any

from everlearn.task import ReleaseRules
from serving.release.analysis import Observation, Question, Score, interval
from serving.release.decide import Evidence, MetricEvidence
from serving.release.observations import Counted

BELOW, ABOVE = Question(0.0, -1), Question(0.0, 1)
"""Of a guardrail: is it worse; of what is to be won: is it better."""


def questions(rules: ReleaseRules) -> tuple[Question, Question, Question]:
    """harm, promote and futility of the primary metric.

    better: below 0, above 0, below the smallest gain worth having. not_worse: the same moved down
    by the margin; half of it lost is what is not worth waiting for. (With "as good" in its place
    8 % of truly equal versions were stopped.)
    """
    if rules.margin is not None:
        return (
            Question(-rules.margin, -1),
            Question(-rules.margin, 1),
            Question(-rules.margin / 2, -1),
        )
    return Question(0.0, -1), Question(0.0, 1), Question(rules.smallest_effect, -1)


class Account:
    """One metric: its running e-values and, for people, the plain counts and means."""

    def __init__(self, name: str, questions: tuple[Question, ...]) -> None:
        self.name = name
        self._score = Score(questions)
        self._ratio = Score([ABOVE, BELOW], fixed=(0.0, 1.0))
        self._sums = {True: [0, 0.0], False: [0, 0.0]}
        self.seen: list[Observation] = []

    def add(self, seen: Observation) -> None:
        """Count one unit."""
        treated = float(seen.treated)
        self._score.update(treated, seen.propensity, seen.value, seen.stratum)
        self._ratio.update(treated, seen.propensity, 1.0)
        self._sums[seen.treated][0] += 1
        self._sums[seen.treated][1] += seen.value
        self.seen.append(seen)

    def evidence(self) -> MetricEvidence:
        """Where it stands; a guardrail asks about harm only, or what it is to win."""
        peaks = [float(peak) for peak in self._score.peak[0]]
        promote, futility = (*peaks[1:], 0.0, 0.0)[:2]
        units = {arm: int(sums[0]) for arm, sums in self._sums.items()}
        means = {arm: sums[1] / sums[0] if sums[0] else None for arm, sums in self._sums.items()}
        return MetricEvidence(
            name=self.name,
            units=units[True] + units[False],
            candidates=units[True],
            mean_candidate=means[True],
            mean_champion=means[False],
            harm=peaks[0],
            promote=promote,
            futility=futility,
            # Half of each side's e-value: together one e-value of a two-sided question.
            ratio=max(0.0, float(self._ratio.peak[0].max()) - math.log(2)),
            harm_now=float(self._score.log_e()[0][0]),
        )


class Accounts:
    """Every metric of one release."""

    def __init__(self, rules: ReleaseRules, rows: Iterable[Counted] = ()) -> None:
        self._primary = Account(rules.primary, questions(rules))
        self._guardrails = {
            name: Account(name, (BELOW, ABOVE) if name == rules.wins else (BELOW,))
            for name in rules.metrics
        }
        self.rows = 0
        self.fold(rows)

    def fold(self, rows: Iterable[Counted]) -> None:
        """Count frozen rows, in their order."""
        for row in rows:
            self.rows += 1
            seen = row.observation
            if seen is not None:
                self._account(row.metric).add(seen)

    def evidence(self, problem: str | None = None) -> Evidence:
        """What the decision looks at."""
        guardrails = tuple(account.evidence() for account in self._guardrails.values())
        return Evidence(self._primary.evidence(), guardrails, problem)

    def summary(self, with_interval: bool = False) -> dict[str, Any]:
        """For the record: numbers by metric, and the interval of the primary effect if asked."""
        found = self.evidence()
        metrics = {entry.name: plain(entry) for entry in (found.primary, *found.guardrails)}
        if with_interval and self._primary.seen:
            low, high = interval(self._primary.seen)
            metrics[found.primary.name]["effect_95"] = [round(low, 3), round(high, 3)]
        return metrics

    def _account(self, name: str) -> Account:
        return self._primary if name == self._primary.name else self._guardrails[name]


def plain(entry: MetricEvidence) -> dict[str, Any]:
    """Its numbers, for the record."""
    values = entry._asdict()
    del values["name"]
    for name in ("harm", "promote", "futility", "ratio", "harm_now"):
        values[f"{name}_log_e"] = round(values.pop(name), 3)
    return values

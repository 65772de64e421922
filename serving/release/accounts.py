"""The evidence of one release, folded unit by unit from its frozen rows."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from everlearn.rules import ReleaseRules
from serving.release.analysis import Observation, Question, Score, interval
from serving.release.corrected import Asked
from serving.release.decide import Evidence, MetricEvidence
from serving.release.failures import FAILURES, OF, Failures
from serving.release.observations import Counted

BELOW, ABOVE = Question(0.0, -1), Question(0.0, 1)
"""Of a guardrail: is it worse; of what is to be won: is it better."""
PAIRS = "shadow_pairs"
"""The name under which pairs are counted, as of a metric."""
SPREAD = (0.5, 0.25)
"""Mean and variance by which pairs are bet on: as if all were won or lost, half of them."""


def questions(rules: ReleaseRules) -> tuple[Question, Question, Question]:
    """harm, promote and futility of the primary metric.

    better: below 0, above what people could fake by answering (0 where nobody is asked), below
    the smallest gain worth having. not_worse: the same moved down by the margin; half of it lost
    is what is not worth waiting for. (With "as good" in its place 8 % of truly equal versions were
    stopped.)
    """
    if rules.margin is not None:
        return (
            Question(-rules.margin, -1),
            Question(-rules.margin, 1),
            Question(-rules.margin / 2, -1),
        )
    least = rules.allowance
    return Question(0.0, -1), Question(least, 1), Question(max(least, rules.smallest_effect), -1)


def others(rules: ReleaseRules, name: str) -> tuple[Question, ...]:
    """Of every other metric: is it worse; and what a promotion must know of it."""
    if name == rules.wins:
        return (BELOW, ABOVE)
    if name == rules.beside:
        return (BELOW, Question(-min(rules.co_margin, rules.margin or 1.0), 1))
    return (BELOW,)


class Account:
    """One metric: its running e-values and, for people, the plain counts and means.

    Of one release, or of many at once, all by the same lines.
    """

    def __init__(
        self,
        name: str,
        questions: tuple[Question, ...],
        *,
        ratio: bool = True,
        paths: int = 1,
        fixed: tuple[float, float] | None = None,
    ) -> None:
        """`ratio`: also ask whether those who were scored fit the shares. `fixed`: see `Score`."""
        self.name = name
        self._score = Score(questions, paths, fixed)
        self._ratio = Score([ABOVE, BELOW], paths, fixed=(0.0, 1.0)) if ratio else None
        self._failures = Failures(paths)
        self._counts = np.zeros((paths, 2))
        self._sums = np.zeros((paths, 2))
        self.seen: list[Observation] = []

    def add(self, seen: Observation) -> None:
        """Count one unit."""
        arms = float(seen.treated), seen.propensity
        self.add_each(*arms, seen.value, seen.stratum, asked=seen.asked)
        self.seen.append(seen)

    def add_each(
        self,
        treated: Any,
        pi: Any,
        value: Any,
        stratum: Any = 0,
        heard: Any = None,
        *,
        asked: Asked | None = None,
    ) -> None:
        """Count one unit in each release; numbers, or one a release. `heard`: 0 where none is."""
        value = self._score.update(treated, pi, value, stratum, heard, asked=asked)
        if self._ratio is not None:
            self._ratio.update(treated, pi, 1.0, 0, heard)
        said = 1.0 if heard is None else np.asarray(heard, dtype=float)
        for arm, weight in enumerate((1 - treated, treated)):
            self._counts[:, arm] += weight * said
            self._sums[:, arm] += weight * said * value

    def fail_each(self, treated: Any, pi: Any, failed: Any = 1.0) -> None:
        """A unit has failed, in each release where `failed`; it is still to be counted."""
        self._failures.update(treated, pi, failed)

    def keep(self, paths: npt.NDArray[np.intp]) -> None:
        """Go on with these releases alone."""
        self._score.keep(paths)
        self._failures.keep(paths)
        if self._ratio is not None:
            self._ratio.keep(paths)
        self._counts, self._sums = self._counts[paths], self._sums[paths]

    def evidence(self) -> MetricEvidence:
        """Where it stands, of one release."""
        return self.evidences()[0]

    def evidences(self) -> list[MetricEvidence]:
        """Where each release stands; a guardrail asks about harm only, or what is to be proven."""
        now = self._score.log_e()[:, 0].tolist()
        labels = self._score.labels()
        failed = self._failures.stand()
        skewed = [0.0] * len(now)
        if self._ratio is not None:
            # Half of each side's e-value: together one e-value of a two-sided question.
            skewed = (self._ratio.peak.max(axis=1) - math.log(2)).clip(0.0).tolist()
        with np.errstate(invalid="ignore"):
            means = np.divide(self._sums, self._counts).tolist()
        found = []
        for place, peaks in enumerate(self._score.peak.tolist()):
            promote, futility = (*peaks[1:], 0.0, 0.0)[:2]
            champions, candidates = (int(count) for count in self._counts[place])
            champion, candidate = means[place]
            found.append(
                MetricEvidence(
                    name=self.name,
                    units=champions + candidates,
                    candidates=candidates,
                    mean_candidate=candidate if candidates else None,
                    mean_champion=champion if champions else None,
                    harm=peaks[0],
                    promote=promote,
                    futility=futility,
                    ratio=skewed[place],
                    harm_now=now[place],
                    failed=failed[place],
                    labels=None if labels is None else labels[place],
                )
            )
        return found


def pair_account(rules: ReleaseRules, paths: int = 1) -> Account:
    """Of shadow pairs: is it worse, better, not better by enough; h0 is wins less losses.

    A judge is wrong at times, and what is won by it less than what is gained: half of
    `smallest_effect` is worth waiting for.
    """
    asked = (BELOW, ABOVE, Question(rules.smallest_effect / 2, -1))
    return Account(PAIRS, asked, ratio=False, paths=paths, fixed=SPREAD)


def accounts(rules: ReleaseRules, paths: int = 1) -> dict[str, Account]:
    """Of every metric by name, the primary one first."""
    found = {rules.primary: Account(rules.primary, questions(rules), paths=paths)}
    for name in rules.metrics:
        found[name] = Account(name, others(rules, name), ratio=False, paths=paths)
    return found


class Accounts:
    """Every metric of one release."""

    def __init__(self, rules: ReleaseRules, rows: Iterable[Counted] = ()) -> None:
        self._guardrails = accounts(rules)
        self._primary = self._guardrails.pop(rules.primary)
        self.pairs = pair_account(rules)
        """Of the time before anybody met the candidate; empty where none was compared."""
        self.rows = 0
        self.fold(rows)

    def fold(self, rows: Iterable[Counted]) -> None:
        """Count frozen rows, in their order."""
        for row in rows:
            self.rows += 1
            seen = row.observation
            if seen is None:
                continue
            if row.metric == FAILURES:
                self._account(OF).fail_each(float(seen.treated), seen.propensity)
            else:
                self._account(row.metric).add(seen)

    def evidence(self, problem: str | None = None) -> Evidence:
        """What the decision looks at."""
        guardrails = tuple(account.evidence() for account in self._guardrails.values())
        return Evidence(self._primary.evidence(), guardrails, problem)

    def summary(self, with_interval: bool = False) -> dict[str, Any]:
        """For the record: numbers by metric, and the interval of the primary effect if asked."""
        found = self.evidence()
        entries = [found.primary, *found.guardrails]
        if self.pairs.seen:
            entries.append(self.pairs.evidence())
        metrics = {entry.name: plain(entry) for entry in entries}
        if with_interval and self._primary.seen:
            low, high = interval(self._primary.seen)
            metrics[found.primary.name]["effect_95"] = [round(low, 3), round(high, 3)]
        return metrics

    def _account(self, name: str) -> Account:
        if name == PAIRS:
            return self.pairs
        return self._primary if name == self._primary.name else self._guardrails[name]


def plain(entry: MetricEvidence) -> dict[str, Any]:
    """Its numbers, for the record."""
    values = entry._asdict()
    del values["name"]
    failed, labels = values.pop("failed"), values.pop("labels")
    if labels is not None:
        values["labels"] = labels._asdict()
    if entry.name == OF:
        values["failures_log_e"] = round(failed.harm, 3)
    for name in ("harm", "promote", "futility", "ratio", "harm_now"):
        values[f"{name}_log_e"] = round(values.pop(name), 3)
    return values

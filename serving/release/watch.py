"""After a promotion: the question of harm, asked again of the champion for `watch_seconds`.

A tenth of the units (`watch_percent`) is answered by the version before, drawn anew in each of
seven epochs, so that those who come every day go on telling. Champion is to former champion what
a candidate was to the champion: the same units are counted the same way, and the same bet is made.

- Harm may begin late, when a bet made since the promotion has lost all it had. So a bet is begun
  at each epoch, and their mean decides: an average of e-processes is one, and by Ville's inequality
  an identical version is taken back with a chance of at most `watch_level`, over the whole watch.
- It ends by itself, and says what it saw. It waits while another version is compared.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec
import numpy as np

from everlearn.rules import ReleaseRules
from serving.release.accounts import BELOW, plain, questions
from serving.release.analysis import Floats, Observation, Question, Score
from serving.release.corrected import Asked
from serving.release.decide import Evidence, MetricEvidence, harm
from serving.release.failures import FAILURES, OF, Failures
from serving.release.observations import Counted
from serving.release.states import Release

EPOCHS = 7


class Late:
    """The e-value of one question whose answer may change at the start of any epoch."""

    def __init__(self, question: Question, paths: int = 1) -> None:
        self._question, self._paths = question, paths
        self._bets: list[Score] = []
        self.peak: Floats = np.zeros(paths)
        """Largest log e so far, by path."""

    def add(self, seen: Observation, epoch: int) -> float:
        """The same, of the only path; what it counted for."""
        arms = float(seen.treated), seen.propensity
        counted = self.update(
            *arms, seen.value, epoch=epoch, stratum=seen.stratum, asked=seen.asked
        )
        return float(np.ravel(counted)[0])

    def update(
        self,
        treated: Any,
        pi: Any,
        value: Any,
        *,
        epoch: int,
        stratum: Any = 0,
        asked: Asked | None = None,
    ) -> Any:
        """Every bet that has begun by the unit's epoch is made on it; what it counted for."""
        while len(self._bets) <= epoch:
            self._bets.append(Score([self._question], self._paths))
        counted = [
            bet.update(treated, pi, value, stratum, asked=asked) for bet in self._bets[: epoch + 1]
        ]
        np.maximum(self.peak, self.log_e(), out=self.peak)
        return counted[0]

    def log_e(self) -> Floats:
        """log of the mean over all epochs; a bet that has not begun stands at 1."""
        logs = np.zeros((EPOCHS, self._paths))
        for place, bet in enumerate(self._bets):
            logs[place] = bet.log_e()[:, 0]
        top = logs.max(axis=0)
        return np.asarray(top + np.log(np.exp(logs - top).mean(axis=0)))


class _Account:
    """One metric under watch."""

    def __init__(self, name: str, question: Question) -> None:
        self._name = name
        self._late = Late(question)
        self._failures = Failures()
        self._values: dict[bool, list[float]] = {True: [], False: []}

    def add(self, row: Counted) -> None:
        seen = row.observation
        if seen is None:
            return
        counted = self._late.add(seen, min(row.stage, EPOCHS - 1))
        self._values[seen.treated].append(counted)

    def fail(self, row: Counted) -> None:
        if row.observation is not None:
            self._failures.update(float(row.treated), row.observation.propensity)

    def evidence(self) -> MetricEvidence:
        means = {arm: sum(found) / len(found) if found else None
                 for arm, found in self._values.items()}  # fmt: skip
        return MetricEvidence(
            self._name,
            units=sum(len(found) for found in self._values.values()),
            candidates=len(self._values[True]),
            mean_candidate=means[True],
            mean_champion=means[False],
            harm=float(self._late.peak[0]),
            harm_now=float(self._late.log_e()[0]),
            failed=self._failures.stand()[0],
        )


class Watched:
    """Every metric of one watch, folded unit by unit from its frozen rows."""

    def __init__(self, rules: ReleaseRules, rows: Iterable[Counted] = ()) -> None:
        self._primary = rules.primary
        asked = dict.fromkeys(rules.metrics, BELOW) | {rules.primary: questions(rules)[0]}
        self._accounts = {name: _Account(name, question) for name, question in asked.items()}
        self.rows = 0
        self.fold(rows)

    def fold(self, rows: Iterable[Counted]) -> None:
        """Count frozen rows, in their order."""
        for row in rows:
            self.rows += 1
            if row.metric == FAILURES:
                self._accounts[OF].fail(row)
            else:
                self._accounts[row.metric].add(row)

    def evidence(self, problem: str | None = None) -> Evidence:
        """What the verdict looks at."""
        found = {name: account.evidence() for name, account in self._accounts.items()}
        primary = found.pop(self._primary)
        return Evidence(primary, tuple(found.values()), problem)

    def summary(self) -> dict[str, Any]:
        """For the record: numbers by metric."""
        found = self.evidence()
        return {entry.name: plain(entry) for entry in (found.primary, *found.guardrails)}


class Verdict(NamedTuple):
    """How a watch ends."""

    harmful: bool
    reason: str


def verdict(watch: Release, evidence: Evidence, now: float) -> Verdict | None:
    """Whether the promotion is taken back, or has been watched for long enough; None: neither."""
    rules = watch.parsed_rules
    line = harm(evidence, rules.model_copy(update={"harm_level": rules.watch_level}))
    if line is not None:
        after = now - watch.created_at
        return Verdict(True, f"watched after its promotion: {line}, {after:.0f} s after it")
    over = now - watch.created_at >= rules.watch_seconds + rules.closing_seconds
    if evidence.problem is not None or not over:
        return None
    primary = evidence.primary
    seen = f"largest harm e-value {math.exp(min(50.0, primary.harm)):.3g} on {primary.name}"
    return Verdict(
        False,
        f"watched for {rules.watch_seconds:g} s: no harm at level {rules.watch_level:g} ({seen} "
        f"after {primary.units} units, {primary.units - primary.candidates} on the version before)",
    )


def epoch(watch: Release, now: float) -> int:
    """Which epoch it is; never an earlier one, whatever the clock says."""
    length = watch.parsed_rules.watch_seconds / EPOCHS
    return max(watch.stage, min(EPOCHS - 1, int((now - watch.created_at) / length)))


def at_epoch(watch: Release, now: float) -> Release:
    """The watch, moved on to the epoch of now."""
    stage = epoch(watch, now)
    return watch if stage == watch.stage else msgspec.structs.replace(watch, stage=stage)


def announcement(rules: ReleaseRules, former: str) -> str:
    """What the promotion says of it."""
    return (
        f"watched for {rules.watch_seconds:g} s against version {former}, which answers "
        f"{rules.watch_percent:g} % of the units: taken back by itself on harm, at level "
        f"{rules.watch_level:g} of its own"
    )


def standing(watch: Release, now: float) -> str:
    """Of a watch that runs, for people."""
    left = max(0.0, watch.created_at + watch.parsed_rules.watch_seconds - now)
    return (
        f"version {watch.candidate.version} is watched for {left:.0f} s more: epoch "
        f"{watch.stage + 1} of {EPOCHS}, harm level {watch.parsed_rules.watch_level:g}"
    )

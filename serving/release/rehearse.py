"""Whole releases, many at once, through the very `decide`: what the rules promise, tried out.

Every metric has its own Score over all releases; at each look `decide` is asked for each release
that still runs, and its step or end is taken. Only traffic and outcomes are made up.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from everlearn.task import ReleaseRules
from gateway.routes import ArmRoute
from serving.release.accounts import ABOVE, BELOW, questions
from serving.release.analysis import Floats, Question, Score
from serving.release.decide import Evidence, MetricEvidence, decide
from serving.release.states import Phase, Release

LOOK_UNITS = 20
"""Between two decisions; the e-values keep their peak, so none is missed."""


class Rates(NamedTuple):
    """Success rates of both arms on one metric, the same all along."""

    champion: float
    candidate: float


class Ends(NamedTuple):
    """How each release ended, and after how many units."""

    phases: tuple[Phase, ...]
    units: Floats

    def share(self, phase: Phase, within: float = np.inf) -> float:
        """Of the releases that ended so within as many units."""
        return float(np.mean([p is phase for p in self.phases] & (self.units <= within)))


class _Metric:
    """One metric of all releases."""

    def __init__(self, name: str, rates: Rates, score: Score, runs: int) -> None:
        self.name, self._rates, self._score = name, rates, score
        self._units = np.zeros(runs)
        self._candidates = np.zeros(runs)

    def happen(self, dice: np.random.Generator, treated: Floats, pi: Floats) -> None:
        """One unit in every release."""
        rate = np.where(treated > 0, self._rates.candidate, self._rates.champion)
        self._score.update(treated, pi, (dice.random(len(treated)) < rate).astype(float))
        self._units += 1
        self._candidates += treated

    def evidence(self) -> list[MetricEvidence]:
        """Of each release."""
        now = self._score.log_e()[:, 0].tolist()
        peaks = [[*row, 0.0, 0.0][:3] for row in self._score.peak.tolist()]
        return [
            MetricEvidence(
                self.name,
                units=int(self._units[run]),
                candidates=int(self._candidates[run]),
                harm=harm,
                promote=promote,
                futility=futility,
                harm_now=now[run],
            )
            for run, (harm, promote, futility) in enumerate(peaks)
        ]


def rehearse(
    rules: ReleaseRules,
    rates: Mapping[str, Rates],
    *,
    alpha: float,
    runs: int,
    most_units: int,
    units_per_second: float = 1.0,
    seed: int = 0,
) -> Ends:
    """So many releases of one truth; `rates` by metric, the primary and all others."""
    dice = np.random.default_rng(seed)
    metrics = _metrics(rules, rates, runs)
    steps = np.array(rules.steps) / 100
    releases = [_release(rules, alpha) for _ in range(runs)]
    ended = np.full(runs, np.inf)
    stages = np.zeros(runs, dtype=int)
    for unit in range(1, most_units + 1):
        pi = steps[stages]
        treated = (dice.random(runs) < pi).astype(float)
        for metric in metrics:
            metric.happen(dice, treated, pi)
        if unit % LOOK_UNITS == 0:
            releases = _look(releases, metrics, rules, unit / units_per_second)
            over = np.array([not each.active for each in releases])
            stages = np.array([each.stage for each in releases])
            ended[over & np.isinf(ended)] = unit
            if over.all():
                break
    return Ends(tuple(each.phase for each in releases), ended)


def _metrics(rules: ReleaseRules, rates: Mapping[str, Rates], runs: int) -> list[_Metric]:
    found = []
    for name in (rules.primary, *rules.metrics):
        asked: Sequence[Question] = (BELOW, ABOVE) if name == rules.wins else (BELOW,)
        if name == rules.primary:
            asked = questions(rules)
        found.append(_Metric(name, rates[name], Score(asked, runs), runs))
    return found


def _look(
    releases: Sequence[Release], metrics: Sequence[_Metric], rules: ReleaseRules, now: float
) -> list[Release]:
    evidence = [metric.evidence() for metric in metrics]
    looked = []
    for run, release in enumerate(releases):
        if not release.active:
            looked.append(release)
            continue
        primary, *others = (each[run] for each in evidence)
        found = decide(release, Evidence(primary, tuple(others)), rules, now)
        since = now if found.stage != release.stage else release.stage_since
        looked.append(
            msgspec.structs.replace(
                release, phase=found.phase, stage=found.stage, stage_since=since
            )
        )
    return looked


def _release(rules: ReleaseRules, alpha: float) -> Release:
    return Release(
        release_id="rehearsal",
        candidate=ArmRoute(version="1", model="candidate"),
        rules=rules.model_dump(mode="json"),
        alpha=alpha,
        created_at=0.0,
        phase=Phase.RAMPING,
    )


def main(runs: int) -> None:
    """The table of docs/releases.md."""
    base, margin = 0.9, 0.03
    fixed = 2 * 2.4865**2 * 2 * base * (1 - base) / margin**2
    for effect, guardrails in ((0.0, ()), (0.0, ("error_rate",)), (-2 * margin, ("error_rate",))):
        rules = ReleaseRules(
            goal="not_worse",
            margin=margin,
            wins="cost",
            primary="right",
            guardrails=guardrails,
            max_seconds=1e9,
        )
        truth = {
            "right": Rates(base, base + effect),
            "cost": Rates(0.5, 0.95),
            "error_rate": Rates(0.99, 0.99),
        }
        most = int(3 * fixed) + 1500
        ends = rehearse(rules, truth, alpha=0.05, runs=runs, most_units=most, seed=1)
        promoted = ends.share(Phase.PROMOTED)
        within = ends.share(Phase.PROMOTED, 3 * fixed)
        print(f"{effect:+.2f} {guardrails}: {promoted:.1%}, within 3 fixed sizes {within:.1%}")


if __name__ == "__main__":
    import argparse

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    main(parser.parse_args().runs)

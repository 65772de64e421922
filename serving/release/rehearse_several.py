"""Whole releases of several challengers, many at once, through the very Accounts, `decide` and
`together`: as `rehearse`, of users who come once and units that close at once."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from everlearn.rules import ReleaseRules
from gateway.routes import ArmRoute
from serving.release.accounts import Account, accounts
from serving.release.analysis import Floats
from serving.release.challengers import abreast
from serving.release.decide import Decision, Evidence, decide
from serving.release.failures import OF
from serving.release.rehearse import DAY_SECONDS, UNITS_A_LOOK, Rates, first_step
from serving.release.several import Weighed, together
from serving.release.states import Phase, Release
from serving.release.trial import Trial, quantiles


class Ends(NamedTuple):
    """How each release ended."""

    phases: tuple[tuple[Phase, ...], ...]
    """Of each challenger."""
    units: Floats
    """That came, here and below; infinity where it never ended."""
    seconds: Floats
    exposed: Floats
    """That a challenger answered."""

    def promoted(self, which: int | None = None) -> float:
        """Share of the releases that promoted that challenger, or any."""
        of = [phases if which is None else (phases[which],) for phases in self.phases]
        return float(np.mean([Phase.PROMOTED in each for each in of]))


def rehearse_several(
    rules: ReleaseRules,
    rates: Sequence[Mapping[str, Rates]],
    *,
    alpha: float,
    runs: int,
    answering: float = 1.0,
    units_per_second: float = 1.0,
    most_units: float = np.inf,
    seed: int = 0,
) -> Ends:
    """So many releases of one truth; `rates` by challenger and metric. `alpha`: of the release."""
    stage = _Stage(rules, rates, answering, np.random.default_rng(seed))
    return stage.play(alpha, runs, UNITS_A_LOOK / units_per_second, most_units)


class _Stage:
    """The releases that still run, and what happens to them."""

    def __init__(
        self,
        rules: ReleaseRules,
        rates: Sequence[Mapping[str, Rates]],
        answering: float,
        dice: np.random.Generator,
    ) -> None:
        self._rules, self._rates, self._answering, self._dice = rules, rates, answering, dice
        self._steps = np.array([step / 100 for step in rules.steps])

    def play(self, alpha: float, runs: int, look_seconds: float, most_units: float) -> Ends:
        """Until all have ended, or so many units have come."""
        count = len(self._rates)
        routes = [ArmRoute(version=f"{n + 1}", model=f"candidate-{n + 1}") for n in range(count)]
        self._accounts = [accounts(self._rules, runs) for _ in range(count)]
        self._releases = [
            list(abreast(first_step(self._rules, alpha), routes)) for _ in range(runs)
        ]
        self._own = self._releases[0][0].parsed_rules
        alive, exposed = np.arange(runs), np.zeros(runs)
        ends = Ends((), *(np.full(runs, np.inf) for _ in range(3)))
        phases = [(Phase.RAMPING,) * count] * runs
        units, now = 0, 0.0
        while len(alive) and units < most_units:
            exposed[alive] += self._look()
            now += look_seconds
            units += UNITS_A_LOOK
            self._decide(now)
            over = [not any(each.active for each in several) for several in self._releases]
            for place in np.flatnonzero(over):
                run = alive[place]
                phases[run] = tuple(each.phase for each in self._releases[place])
                ends.units[run], ends.seconds[run] = units, now
                ends.exposed[run] = exposed[run]
            if any(over):
                alive = alive[~np.array(over)]
                self._keep(np.flatnonzero(~np.array(over)))
        return ends._replace(phases=tuple(phases))

    def _look(self) -> Floats:
        """Units come, are drawn as the gateway does, answered and counted; those on challengers."""
        runs, count = len(self._releases), len(self._rates)
        shape = (runs, UNITS_A_LOOK)
        ramps = np.array([[each.active for each in several] for several in self._releases])
        # One that runs says where all stand.
        stages = [next(e.stage for e in several if e.active) for several in self._releases]
        share = self._steps[stages][:, None]
        place = self._dice.random(shape) * count
        which = np.minimum(count - 1, place.astype(int))
        drawn = place - which < share
        on = [drawn & (which == n) & ramps[:, n : n + 1] for n in range(count)]
        said = self._dice.random(shape) < self._answering
        pi = np.broadcast_to(share / (share + count * (1 - share)), shape)
        for name in self._accounts[0]:
            dice = self._dice.random(shape)
            heard = said if name == self._rules.primary else np.ones(shape, dtype=bool)
            for n, found in enumerate(self._accounts):
                rates = self._rates[n][name]
                value = (dice < np.where(on[n], rates.candidate, rates.champion)).astype(float)
                own = heard & (~drawn | on[n]) & ramps[:, n : n + 1]
                _count(found[name], on[n].astype(float), pi, value, own)
        return np.asarray(sum(each.sum(axis=1) for each in on), dtype=float)

    def _decide(self, now: float) -> None:
        evidence = [[account.evidences() for account in found.values()] for found in self._accounts]
        for place, several in enumerate(self._releases):
            weighed = []
            for n, release in enumerate(several):
                if not release.active:
                    continue
                primary, *others = (each[place] for each in evidence[n])
                seen = Evidence(primary, tuple(others))
                weighed.append(Weighed(release, seen, decide(release, seen, self._own, now)))
            dropped = [each for each in weighed if _dropped(each.decision)]
            left = [each for each in weighed if not _dropped(each.decision)]
            found = [(each, each.decision) for each in dropped]
            found += list(zip(left, together(left), strict=True))
            for each, decision in found:
                several[each.release.which] = _moved(each.release, decision, now)

    def _keep(self, left: Any) -> None:
        self._releases = [self._releases[place] for place in left]
        for found in self._accounts:
            for account in found.values():
                account.keep(left)


def _count(account: Account, treated: Floats, pi: Floats, value: Floats, heard: Any) -> None:
    """Those that are heard of moved to the front, place by place."""
    most = int(heard.sum(axis=1).max(initial=0))
    order = np.argsort(~heard, axis=1, kind="stable")[:, :most]
    treated, pi, value, heard = (
        np.take_along_axis(rows, order, 1) for rows in (treated, pi, value, heard)
    )
    for k in range(most):
        if account.name == OF:
            account.fail_each(treated[:, k], pi[:, k], heard[:, k] & (value[:, k] == 0))
        account.add_each(treated[:, k], pi[:, k], value[:, k], 0, heard[:, k])


def _dropped(decision: Decision) -> bool:
    return decision.phase not in (Phase.RAMPING, Phase.PROMOTED)


def _moved(release: Release, decision: Decision, now: float) -> Release:
    since = now if decision.stage != release.stage else release.stage_since
    if (decision.phase, decision.stage) == (release.phase, release.stage):
        return release
    return msgspec.structs.replace(
        release, phase=decision.phase, stage=decision.stage, stage_since=since
    )


def told_several(asked: Trial, challengers: int, runs: int, seed: int) -> dict[str, Any]:
    """Shares, days and units, in plain JSON types, of releases in which the first challenger is as
    supposed and the others are as the champion."""
    same = {name: Rates(rates.champion, rates.champion) for name, rates in asked.rates.items()}
    ends = rehearse_several(
        asked.rules, [asked.rates, *[same] * (challengers - 1)],
        alpha=asked.level, runs=runs, answering=asked.people.answering,
        units_per_second=asked.pace.units_per_second, seed=seed,
    )  # fmt: skip
    primary = asked.rates[asked.rules.primary]
    better = primary.candidate > primary.champion
    first = ends.promoted(0)
    return {
        "runs": runs,
        "challengers": challengers,
        "level": round(asked.level, 5),
        "assumed": {
            "requests_a_day": round(asked.pace.units_per_second * DAY_SECONDS, 1),
            "rates": {name: list(rates) for name, rates in asked.rates.items()},
            "answering": asked.people.answering,
        },
        "shares": {
            "promoted": ends.promoted(),
            "promoted_the_first": first,
            "promoted_no_better": ends.promoted() - (first if better else 0.0),
        },
        "days": quantiles(ends.seconds / DAY_SECONDS),
        "units": quantiles(ends.units),
        "answered_by_challengers": quantiles(ends.exposed),
    }


def lines_several(result: Mapping[str, Any]) -> list[str]:
    """For people."""
    shares, assumed = result["shares"], result["assumed"]
    rates = ", ".join(f"{name} {a:.3g} -> {b:.3g}" for name, (a, b) in assumed["rates"].items())
    return [
        f"{result['runs']} releases of {result['challengers']} challengers at level "
        f"{result['level']:g}, {result['level'] / result['challengers']:.4g} each: promoted "
        f"{shares['promoted']:.1%}, the first {shares['promoted_the_first']:.1%}, one that is no "
        f"better {shares['promoted_no_better']:.1%}",
        f"in the median {result['days']['median']:.2f} days and {result['units']['median']:.0f} "
        f"units, of which challengers answered {result['answered_by_challengers']['median']:.0f}",
        f"assumed: {assumed['requests_a_day']:g} requests a day of users who come once; of the "
        f"first challenger {rates}, of the others as the champion",
    ]

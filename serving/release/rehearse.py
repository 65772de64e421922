"""Whole releases, many at once, through the very Accounts and `decide`: what the rules promise.

Only traffic, answers and people are made up. Time goes in looks of the controller; between two of
them some units open, are assigned by the gateway's rule, and close at one age. The e-values keep
their peak, so no crossing is missed by looking seldom.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from everlearn.rules import ReleaseRules
from gateway.routes import ArmRoute
from serving.release.accounts import Account, accounts
from serving.release.analysis import Floats
from serving.release.corrected import Asked
from serving.release.decide import Evidence, decide, last_stage
from serving.release.failures import OF
from serving.release.states import Phase, Release

UNITS_A_LOOK = 20
DAY_SECONDS = 86_400.0


class Rates(NamedTuple):
    """Success rates of both arms on one metric."""

    champion: float
    candidate: float


class Labelling(NamedTuple):
    """Where people label a share of what a judge says of every unit."""

    share: float = 0.05
    agreement: float = 0.8
    """How often the judge says what people say."""
    favour: float = 0.0
    """How much oftener it finds the candidate's answers good, whatever they are worth."""
    missing: float = 0.0
    """Of those to be labelled, not labelled in time."""
    wait_seconds: float = 14_400.0

    def judged(self, word: Floats, treated: Floats, dice: np.random.Generator) -> Floats:
        """What the judge says where people say `word`."""
        said = np.where(dice.random(word.shape) < self.agreement, word, 1 - word)
        # Of the candidate's answers that it would find bad (or good) so many are turned.
        turned = self.favour > 0
        open_ = max(1e-9, float(np.mean(said != turned)))
        found = (treated > 0) & (dice.random(word.shape) < abs(self.favour) / open_)
        return np.where(found, float(turned), said)


class People(NamedTuple):
    """Who asks, and who says what he thought of the answer."""

    answering: float = 1.0
    """Share of the units that the primary metric hears of."""
    satisfied: float = 1.0
    """How many times as often the candidate's satisfied users answer, and the dissatisfied."""
    dissatisfied: float = 1.0
    users: int | None = None
    """None: everybody comes once. Else so many, of whom anybody may come at any time."""
    taste: float = 0.2
    """How far the users' own rates lie around the mean, to both sides; of those who return."""
    redrawn: float = 0.0
    """Share of his requests at which a user is a new unit, drawn anew: 1 where requests are drawn,
    1 in n where conversations of n are."""
    wave: float = 0.0
    """By how much every rate goes up and down in a day."""
    labels: Labelling | None = None
    """The primary metric is a judge's, corrected by people; `answering` is then of no matter."""


class Pace(NamedTuple):
    """How fast it goes."""

    units_per_second: float = 1.0
    """Requests of users, or users where everybody comes once."""
    slower_seconds: float = 0.0
    """How much longer the candidate's answers take than the champion's."""
    answer_seconds: float = 5.0
    """Age at which units of both arms close; what takes longer closes when it comes."""
    epoch_seconds: float | None = None
    """Users are drawn anew after so long, and count again."""


class Ends(NamedTuple):
    """How each release ended."""

    phases: tuple[Phase, ...]
    units: Floats
    """Units that the primary metric heard of; infinity where it never ended, as in `seconds`."""
    seconds: Floats
    exposed: Floats
    """Units that the candidate answered."""

    def share(self, phase: Phase, within: float = np.inf) -> float:
        """Of the releases that ended so within as many units."""
        return float(np.mean([p is phase for p in self.phases] & (self.units <= within)))


def rehearse(
    rules: ReleaseRules,
    rates: Mapping[str, Rates],
    *,
    alpha: float,
    runs: int,
    people: People | None = None,
    pace: Pace | None = None,
    most_units: float = np.inf,
    seed: int = 0,
) -> Ends:
    """So many releases of one truth; `rates` by metric, the primary and all others."""
    stage = _Stage(rules, rates, people or People(), pace or Pace(), np.random.default_rng(seed))
    return stage.play(alpha, runs, most_units)


class _Seen(NamedTuple):
    """What one metric says of the units, by release and place."""

    value: Floats
    heard: npt.NDArray[np.bool_]
    drawn: npt.NDArray[np.bool_] | None = None
    label: Floats | None = None

    def of(self, paths: npt.NDArray[np.intp]) -> "_Seen":
        """In these releases alone."""
        return _Seen(
            self.value[paths],
            self.heard[paths],
            None if self.drawn is None else self.drawn[paths],
            None if self.label is None else self.label[paths],
        )


class _Units(NamedTuple):
    """What opened between two looks, by release and place."""

    opened: float
    treated: Floats
    propensity: Floats
    """0: it carries no information."""
    values: Mapping[str, _Seen]
    """By metric."""


class _Stage:
    """The releases that still run, and what happens to them."""

    def __init__(
        self,
        rules: ReleaseRules,
        rates: Mapping[str, Rates],
        people: People,
        pace: Pace,
        dice: np.random.Generator,
    ) -> None:
        self._rules, self._rates, self._people, self._pace = rules, rates, people, pace
        self._dice = dice
        self._look_seconds = UNITS_A_LOOK / pace.units_per_second
        self._steps = np.array([step / 100 for step in rules.steps])

    def play(self, alpha: float, runs: int, most_units: float) -> Ends:
        """Until all have ended, or so many units have come."""
        self._accounts = accounts(self._rules, runs)
        self._releases = [first_step(self._rules, alpha) for _ in range(runs)]
        self._alive = np.arange(runs)
        self._exposed = np.zeros(runs)
        self._crowd = _Crowd(self._people, runs, self._dice)
        ends = Ends((), *(np.full(runs, np.inf) for _ in range(3)))
        phases = [Phase.RAMPING] * runs
        waiting: list[_Units] = []
        units, now = 0, 0.0
        while len(self._alive) and units < most_units:
            waiting.append(self._open(now))
            now += self._look_seconds
            units += UNITS_A_LOOK
            waiting = self._close(waiting, now)
            over = self._decide(now)
            for place, heard in over.items():
                run = self._alive[place]
                phases[run] = self._releases[place].phase
                ends.units[run], ends.seconds[run] = heard, now
                ends.exposed[run] = self._exposed[place]
            if over:
                waiting = self._drop(over, waiting)
        return ends._replace(phases=tuple(phases))

    def _open(self, now: float) -> _Units:
        """Units come, are assigned and answered."""
        pace, people, runs = self._pace, self._people, len(self._alive)
        stages = np.array([release.stage for release in self._releases])
        if pace.epoch_seconds is not None:
            self._crowd.turn(int(now // pace.epoch_seconds), self._dice)
        found = self._crowd.come(self._steps[stages], stages, self._dice)
        treated, propensity, taste = found
        self._exposed += treated.sum(axis=1)
        wave = people.wave * np.sin(2 * np.pi * now / DAY_SECONDS)
        taste = taste * people.taste + wave
        values = {}
        for name in self._accounts:
            rates = self._rates[name]
            # Whoever is never wrong on a metric has no taste in it either.
            own = taste if name == self._rules.primary else 0.0
            rate = np.where(treated > 0, rates.candidate, rates.champion) + own
            value = (self._dice.random((runs, UNITS_A_LOOK)) < rate).astype(float)
            heard = propensity > 0
            if name != self._rules.primary:
                values[name] = _Seen(value, heard)
            elif people.labels is not None:
                values[name] = self._labelled(people.labels, treated, value, heard)
            else:
                values[name] = _Seen(value, heard & self._answers(treated, value))
        return _Units(now, treated, np.maximum(propensity, 0.0), values)

    def _labelled(
        self, labels: Labelling, treated: Floats, word: Floats, heard: npt.NDArray[np.bool_]
    ) -> _Seen:
        """A judge's values, and people's words on some."""
        dice, shape = self._dice, word.shape
        judged = labels.judged(word, treated, dice)
        drawn = dice.random(shape) < labels.share
        label = np.where(drawn & (dice.random(shape) >= labels.missing), word, np.nan)
        return _Seen(judged, heard, drawn, label)

    def _answers(self, treated: Floats, value: Floats) -> npt.NDArray[np.bool_]:
        """Who says something."""
        people = self._people
        times = np.where(value > 0, people.satisfied, people.dissatisfied)
        share = people.answering * np.where(treated > 0, times, 1.0)
        found: npt.NDArray[np.bool_] = self._dice.random(value.shape) < share
        return found

    def _close(self, waiting: list[_Units], now: float) -> list[_Units]:
        """Count what is due, the first that opened first; what is still to come."""
        later = max(0.0, self._pace.slower_seconds - self._pace.answer_seconds)
        labels = self._people.labels
        labelled = 0.0 if labels is None else labels.wait_seconds
        left = []
        for units in waiting:
            age = now - units.opened
            done = (units.treated == 0) | (age >= later)
            for name, seen in units.values.items():
                if name == self._rules.primary and age < labelled:
                    continue
                _count(self._accounts[name], units, seen._replace(heard=seen.heard & done), labels)
                seen.heard[done] = False
            if age < max(later, labelled):
                left.append(units)
        return left

    def _decide(self, now: float) -> dict[int, int]:
        """Of those that ended: the place, and the units of the primary metric."""
        evidence = [account.evidences() for account in self._accounts.values()]
        over = {}
        for place, release in enumerate(self._releases):
            primary, *others = (each[place] for each in evidence)
            found = decide(release, Evidence(primary, tuple(others)), self._rules, now)
            since = now if found.stage != release.stage else release.stage_since
            if (found.phase, found.stage) != (release.phase, release.stage):
                self._releases[place] = msgspec.structs.replace(
                    release, phase=found.phase, stage=found.stage, stage_since=since
                )
            if not self._releases[place].active:
                over[place] = primary.units
        return over

    def _drop(self, over: Mapping[int, int], waiting: list[_Units]) -> list[_Units]:
        left = np.array([p for p in range(len(self._alive)) if p not in over], dtype=np.intp)
        self._releases = [self._releases[place] for place in left]
        self._alive, self._exposed = self._alive[left], self._exposed[left]
        self._crowd.keep(left)
        for account in self._accounts.values():
            account.keep(left)
        return [
            _Units(
                each.opened,
                each.treated[left],
                each.propensity[left],
                {name: seen.of(left) for name, seen in each.values.items()},
            )
            for each in waiting
        ]


def _count(account: Account, units: _Units, seen: _Seen, labels: Labelling | None) -> None:
    """Place by place, those that were heard of moved to the front in their order."""
    most = int(seen.heard.sum(axis=1).max(initial=0))
    if most == 0:
        return
    order = np.argsort(~seen.heard, axis=1, kind="stable")[:, :most]

    def sorted_(rows: Any) -> Any:
        return None if rows is None else np.take_along_axis(rows, order, 1)

    treated, propensity = sorted_(units.treated), sorted_(units.propensity)
    values, said, drawn, label = (sorted_(rows) for rows in seen)
    for k in range(most):
        pi = np.where(said[:, k], propensity[:, k], 0.5)
        if account.name == OF:
            account.fail_each(treated[:, k], pi, said[:, k] & (values[:, k] == 0))
        asked = None
        if labels is not None and drawn is not None:
            asked = Asked(labels.share, drawn[:, k], label[:, k])
        account.add_each(treated[:, k], pi, values[:, k], 0, said[:, k], asked=asked)


class _Crowd:
    """Users of each release: where the hash puts them, and when they last counted."""

    def __init__(self, people: People, runs: int, dice: np.random.Generator) -> None:
        self._users, self._redrawn, self._epoch = people.users, people.redrawn, 0
        count = people.users or 0
        self._place = dice.random((runs, count))
        self._taste = dice.uniform(-1, 1, (runs, count))
        self._stage = np.full((runs, count), -1)
        self._share = np.zeros((runs, count))

    def turn(self, epoch: int, dice: np.random.Generator) -> None:
        """A new salt: everybody is drawn anew and counts again."""
        if epoch != self._epoch:
            self._epoch = epoch
            self._place = dice.random(self._place.shape)
            self._stage[:] = -1
            self._share[:] = 0.0

    def come(
        self, share: Floats, stage: npt.NDArray[np.intp], dice: np.random.Generator
    ) -> tuple[Floats, Floats, Floats]:
        """Of each unit: treated, propensity (0: on the candidate already; -1: counted before in
        this stage), and taste."""
        runs = len(share)
        shape = (runs, UNITS_A_LOOK)
        if self._users is None:
            treated = (dice.random(shape) < share[:, None]).astype(float)
            return treated, np.broadcast_to(share[:, None], shape).copy(), np.zeros(shape)
        treated, propensity, taste = (np.zeros(shape) for _ in range(3))
        rows = np.arange(runs)
        for k, who in enumerate(dice.integers(self._users, size=shape).T):
            if self._redrawn:
                self._begin(who, dice)
            place, former = self._place[rows, who], self._share[rows, who]
            again = self._stage[rows, who] == stage
            treated[:, k] = place < share
            asked = (share - former) / (1 - former)
            found = np.where((place < former) | (asked <= 0), 0.0, asked)
            propensity[:, k] = np.where(again, -1.0, found)
            taste[:, k] = self._taste[rows, who]
            self._stage[rows, who], self._share[rows, who] = stage, share
        return treated, propensity, taste

    def _begin(self, who: npt.NDArray[np.intp], dice: np.random.Generator) -> None:
        """New conversations: drawn anew, of the same taste."""
        (new,) = np.nonzero(dice.random(len(who)) < self._redrawn)
        self._place[new, who[new]] = dice.random(len(new))
        self._stage[new, who[new]] = -1
        self._share[new, who[new]] = 0.0

    def keep(self, paths: npt.NDArray[np.intp]) -> None:
        """Go on with these releases alone."""
        self._place, self._taste = self._place[paths], self._taste[paths]
        self._stage, self._share = self._stage[paths], self._share[paths]


def first_step(rules: ReleaseRules, alpha: float) -> Release:
    """A release that begins to ramp."""
    assert last_stage(rules) >= 0
    return Release(
        release_id="rehearsal",
        candidate=ArmRoute(version="1", model="candidate"),
        rules=rules.model_dump(mode="json"),
        alpha=alpha,
        created_at=0.0,
        phase=Phase.RAMPING,
    )

"""The score of a release: one product per unit, one e-value per question.

For unit i with assignment T (1 = candidate), pi = P(T = 1) at the moment of assignment given all
that was known of the unit, and outcome Y in [0, 1]:

    x_i = s * ((T - pi) * (Y - c) - h0 * pi * (1 - pi))
    L_k += log1p(lambda_k * x_i)      lambda_k = min(delta_k / v, 0.5 / m)
    log e = logmeanexp_k(L_k)

- c and v are mean and variance of past outcomes (both arms, the unit's stratum), updated after the
  bet; m is the largest possible loss. So each product is a non-negative supermartingale under its
  null, and by Ville's inequality P(e ever reaches 1 / level) <= level: at every look, under any
  ramp and any drift of the base rate.
- It refuses to pool arms: a difference of pooled means is wrong under a ramp.
- `peak` is the largest e so far: the inequality bounds the whole path, so a crossing stays one.
- An e-value is evidence, not a probability.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from serving.release.corrected import Asked, Correction, Labels, Reading

DELTAS = (0.02, 0.03, 0.045, 0.07, 0.10, 0.15, 0.22, 0.33)
DECAY = 0.5 ** (1 / 200)
"""Past outcomes count half after 200 units."""
PRIOR_UNITS = 2.0
"""Weight of the prior: mean 0.5, second moment 1/3 (uniform outcomes)."""
MIN_VARIANCE = 0.02
STRATA = 4
"""Thirds of the unit's past reward, and units without a past."""

Floats = npt.NDArray[np.float64]


class Question(NamedTuple):
    """sign +1 asks whether the effect is above h0, -1 whether it is below."""

    h0: float
    sign: int


class Observation(NamedTuple):
    """What one closed unit of one stage says about one metric."""

    treated: bool
    propensity: float
    value: float
    stratum: int = 0
    asked: Asked | None = None
    """`value` is a judge's, nan where it said nothing, and people's words correct it."""


def propensity(
    share: float, former_arm: str | None, former_share: float | None, challengers: int = 1
) -> float | None:
    """P(candidate) for a unit of a stage with this share of candidates, given its former stage.

    None: the unit carries no information. The hash is monotone: who was on the candidate stays
    there, who was not is asked again with the part of the hash range that is left. Of several
    challengers `share` is P(candidate | candidate or champion), `former_share` that of all together
    in the former stage.
    """
    if former_arm == "challenger":
        return None
    if former_arm is not None and former_share is not None:
        together = challengers * share / (1 + (challengers - 1) * share)
        new = (together - former_share) / challengers
        share = new / (new + 1 - together)
    return share if 0 < share < 1 else None


class Score:
    """Running e-values of several questions; axes are paths, questions, deltas.

    One path is one release; simulations run many at once through the same code.
    """

    def __init__(
        self,
        questions: Sequence[Question],
        paths: int = 1,
        fixed: tuple[float, float] | None = None,
    ) -> None:
        """`fixed`: mean and variance to bet with, instead of those of the past."""
        self._fixed = fixed
        self._h0 = np.array([question.h0 for question in questions])
        self._sign = np.array([float(question.sign) for question in questions])
        self._up = self._sign > 0
        self._deltas = np.array(DELTAS)
        self._logs = np.zeros((paths, len(questions), len(DELTAS)))
        self._past = np.tile(np.array([1.0, 0.5, 1 / 3]) * PRIOR_UNITS, (paths, STRATA, 1))
        self._rows = np.arange(paths)
        self._correction: Correction | None = None
        self.peak: Floats = np.zeros((paths, len(questions)))
        """Largest log e so far, by path and question."""

    def update(
        self,
        treated: Any,
        pi: Any,
        value: Any,
        stratum: Any = 0,
        heard: Any = None,
        *,
        asked: Asked | None = None,
    ) -> Any:
        """Bet on one unit per path, then learn from it; each argument is a number or one a path.
        What it counted for.

        `heard` (1 or 0 a path): where it is 0 the unit says nothing, and nothing changes.
        `asked`: `value` is a judge's word, which people's correct.
        """
        if asked is not None:
            self._correction = self._correction or Correction(len(self._rows))
            reading = self._correction.read(value, asked, heard)
            self._bet(treated, pi, reading, heard)
            return reading.value
        past = self._past[self._rows, stratum]
        self._bet(treated, pi, Reading(value, *self._expected(past)), heard)
        seen = np.stack(np.broadcast_arrays(1.0, value, np.square(value)), axis=-1)
        learned = past * DECAY + seen
        if heard is not None:
            learned = np.where(np.asarray(heard, dtype=bool)[:, None], learned, past)
        self._past[self._rows, stratum] = learned
        return value

    def add(self, seen: Observation) -> float:
        """Bet on one unit of the only path."""
        arms = float(seen.treated), seen.propensity
        return float(np.ravel(self.update(*arms, seen.value, seen.stratum, asked=seen.asked))[0])

    def _bet(self, treated: Any, pi: Any, unit: Reading, heard: Any) -> None:
        side, spread = treated - pi, np.reshape(pi * (1 - pi), (-1, 1))
        product = side * (unit.value - unit.mean)
        x = self._sign * (product[:, None] - self._h0 * spread)
        x = x - np.reshape(np.abs(side) * unit.doubt, (-1, 1))
        below, above = unit.mean - unit.low, unit.high - unit.mean
        loss_up = np.maximum((1 - pi) * below, pi * above)
        loss_down = np.maximum((1 - pi) * above, pi * below)
        loss = np.where(self._up, loss_up[:, None], loss_down[:, None])
        loss = loss + self._sign * self._h0 * spread
        stake = np.minimum(
            self._deltas / unit.variance[:, None, None],
            0.5 / np.maximum(loss, 1e-9)[:, :, None],
        )
        if heard is not None:
            x = np.where(np.asarray(heard, dtype=bool)[:, None], x, 0.0)
        self._logs += np.log1p(stake * x[:, :, None])
        np.maximum(self.peak, self.log_e(), out=self.peak)

    def keep(self, paths: npt.NDArray[np.intp]) -> None:
        """Go on with these paths alone."""
        self._logs, self._past = self._logs[paths], self._past[paths]
        self.peak, self._rows = self.peak[paths], np.arange(len(paths))
        if self._correction is not None:
            self._correction.keep(paths)

    def labels(self) -> list[Labels] | None:
        """By path, where people correct a judge."""
        return None if self._correction is None else self._correction.labels()

    def _expected(self, past: Floats) -> tuple[Floats, Floats]:
        if self._fixed is not None:
            return np.full(len(past), self._fixed[0]), np.full(len(past), self._fixed[1])
        mean = past[:, 1] / past[:, 0]
        return mean, np.maximum(past[:, 2] / past[:, 0] - mean**2, MIN_VARIANCE)

    def log_e(self) -> Floats:
        """log of the e-values now, by path and question."""
        top = self._logs.max(axis=2)
        return np.asarray(top + np.log(np.exp(self._logs - top[:, :, None]).mean(axis=2)))


def values_of(observations: Iterable[Observation]) -> list[float]:
    """What each counts for, in their order."""
    past = Correction()
    return [
        seen.value if seen.asked is None else float(past.read(seen.value, seen.asked).value[0])
        for seen in observations
    ]


def interval(
    observations: Iterable[Observation], level: float = 0.95, grid: int = 80
) -> tuple[float, float]:
    """Confidence interval of the effect, valid at every look; after a stop it is biased upwards.

    Inverts h0 on a grid over [-1, 1]: what neither question rejects is kept. 50 us a unit.
    """
    seen = list(observations)
    found = intervals(seen, [len(seen)], level, grid)
    return found[0] if found else (-1.0, 1.0)


def intervals(
    observations: Sequence[Observation], after: Sequence[int], level: float = 0.95, grid: int = 80
) -> list[tuple[float, float]]:
    """The interval after so many units each, in one pass; `after` rises."""
    points = [2 * i / grid - 1 for i in range(grid + 1)]
    score = Score([Question(h0, sign) for h0 in points for sign in (1, -1)])
    found = []
    for count, seen in enumerate(observations, 1):
        score.add(seen)
        found += [_kept(score, points, level)] * list(after).count(count)
    return found


def _kept(score: Score, points: Sequence[float], level: float) -> tuple[float, float]:
    grid = len(points) - 1
    rejected = score.peak[0].reshape(-1, 2) >= np.log(2 / (1 - level))
    kept = [h0 for h0, (above, below) in zip(points, rejected, strict=True) if not above | below]
    if not kept:
        return (0.0, 0.0)
    return max(-1.0, kept[0] - 2 / grid), min(1.0, kept[-1] + 2 / grid)

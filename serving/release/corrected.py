"""A judge's word on every unit, corrected by people's on the units that chance put before them.

Of a unit with the judge's verdict J, drawn (R) with a known probability q by nothing but chance,
and with the person's word H where it was drawn:

    V = g(J) + R / q * (H - g(J))

- E[V | J, H] = H whatever g is, so a bet on V is a bet on what people say: a judge that is biased,
  towards one arm too, promotes nobody. The better g tells H, the less V varies.
- g is the regression of H on J over the *past* units alone, so each bet is fixed before its unit.
- V lies between bounds that are known before the unit is: what the stake must be small for.
- A drawn unit that nobody labelled in time is worth whatever would speak most against the question
  at hand (`doubt`), so who is not labelled can promote, accuse or stop nobody either.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

DECAY = 0.5 ** (1 / 200)
"""Past labels count half after 200."""
PRIOR_LABELS = 2.0
"""Weight of the prior: judge and people uniform, and nothing to do with each other."""
MIN_VARIANCE = 0.02


class Asked(NamedTuple):
    """Whether chance put a unit before people, and what they said; numbers, or one a path."""

    probability: Any
    drawn: Any
    label: Any
    """0 to 1; nan where nothing was said."""


class Reading(NamedTuple):
    """What a unit counts for, and what could be known of it before."""

    value: Any
    mean: Any
    variance: Any
    low: Any = 0.0
    high: Any = 1.0
    doubt: Any = 0.0
    """By how much it may lie above or below `value`."""


class Labels(NamedTuple):
    """Of one release so far, for people."""

    drawn: int
    labelled: int
    worth: float
    """Labels that would tell as much without the judge."""

    def line(self) -> str:
        """In a sentence."""
        missing = self.drawn - self.labelled
        late = f", {missing} not labelled in time" if missing else ""
        return (
            f"{self.labelled} units labelled by people{late}; with the judge on every unit they "
            f"tell as much as {self.worth:.0f} without it: {self.worth - self.labelled:.0f} labels "
            "saved"
        )


class Correction:
    """What the past says of judge and people, by path."""

    def __init__(self, paths: int = 1) -> None:
        # Weight, J, H, J*J, J*H, H*H, and the squared error of g made before the label was known.
        prior = PRIOR_LABELS * np.array([1.0, 0.5, 0.5, 1 / 3, 1 / 4, 1 / 3, 1 / 4])
        self._past: Floats = np.tile(prior, (paths, 1))
        self._counts = np.zeros((paths, 2))
        """Units drawn, and labelled."""
        self._worth = np.ones(paths)

    def keep(self, paths: npt.NDArray[np.intp]) -> None:
        """Go on with these paths alone."""
        self._past, self._counts = self._past[paths], self._counts[paths]
        self._worth = self._worth[paths]

    def read(self, judged: Any, asked: Asked, heard: Any = None) -> Reading:
        """One unit per path by what was known before it, which is then learned from it; `judged` is
        nan where the judge said nothing. Where `heard` is 0 there is no unit."""
        weight, j, h, jj, jh, hh, error = self._past.T
        mean, of_judge = h / weight, j / weight
        slope = (jh / weight - mean * of_judge) / (jj / weight - of_judge**2)

        def told(verdict: Any) -> Floats:
            return np.asarray(np.clip(mean + slope * (verdict - of_judge), 0.0, 1.0))

        judged = np.broadcast_to(np.asarray(judged, dtype=float), mean.shape)
        expected = np.where(np.isnan(judged), mean, told(np.nan_to_num(judged)))
        ends = np.stack([told(0.0), told(1.0)])
        rest = 1 / np.asarray(asked.probability, dtype=float) - 1
        label = np.broadcast_to(np.asarray(asked.label, dtype=float), mean.shape)
        drawn = np.broadcast_to(np.asarray(asked.drawn, dtype=bool), mean.shape)
        missing = drawn & np.isnan(label)
        word = np.where(missing, 0.5, np.nan_to_num(label))
        alone = np.maximum(hh / weight - mean**2, MIN_VARIANCE)
        variance = alone + rest * error / weight
        reading = Reading(
            value=np.where(drawn, (rest + 1) * word - rest * expected, expected),
            mean=mean,
            variance=variance,
            low=-rest * ends.max(axis=0),
            high=rest + 1 - rest * ends.min(axis=0),
            doubt=np.where(missing, 0.5 * (rest + 1), 0.0),
        )
        here = True if heard is None else np.asarray(heard, dtype=bool)
        self._worth = np.where(here, (rest + 1) * alone / variance, self._worth)
        self._counts += np.stack([drawn & here, drawn & ~missing & here], axis=-1)
        self._learn(np.where(np.isnan(judged), of_judge, judged), word, expected,
                    drawn & ~missing & here)  # fmt: skip
        return reading

    def _learn(self, judged: Floats, label: Floats, expected: Floats, where: Any) -> None:
        new = [np.ones_like(judged), judged, label, judged**2, judged * label, label**2]
        seen = np.stack([*new, (label - expected) ** 2], axis=-1)
        self._past = np.where(where[:, None], self._past * DECAY + seen, self._past)

    def labels(self) -> list[Labels]:
        """By path."""
        return [
            Labels(int(drawn), int(labelled), labelled * max(1.0, worth))
            for (drawn, labelled), worth in zip(
                self._counts.tolist(), self._worth.tolist(), strict=True
            )
        ]

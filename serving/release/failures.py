"""Whether a version fails more often, told from failures alone: a failure is known at once, that
nothing else will come of a unit only after a while.

Of the n-th unit that failed, whoever served it, T says whether it was the candidate and pi was the
probability of that. Of a version that fails no more often (nor sooner) P(T = 1) is at most pi, and
each of these bets, that it fails theta times as often, loses in the mean:

    S = (S + w_n) * theta ** T / (theta * pi + 1 - pi)      w_n = 1 / (n (n + 1)), S = 0 at first
    e = mean over theta of S + 1 / (n + 1)

- A share w_n of the stake is kept for the n-th failure, so a version that begins to fail late is
  found as if the question had been asked then. By Ville's inequality P(e ever reaches 1 / level) is
  at most the level, at every look.
- Units that did not fail, and those still open, are not looked at: that an arm's good answers take
  longer changes nothing. Its *failures* coming later than the other's would.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from serving.release.analysis import Floats

OF = "error_rate"
"""The metric whose level it shares, half and half."""
FAILURES = f"{OF}.failures"
"""Its rows in `release_units`."""
TIMES = np.array([2.0, 4.0, 16.0, 64.0])


class Failed(NamedTuple):
    """Where it stands."""

    harm: float = 0.0
    """Largest log e-value so far."""
    units: int = 0
    candidates: int = 0


class Failures:
    """The running e-value; one path is one release, as in `analysis.Score`."""

    def __init__(self, paths: int = 1) -> None:
        self._logs = np.full((paths, len(TIMES)), -np.inf)
        self._units, self._candidates = np.zeros(paths), np.zeros(paths)
        self._peak: Floats = np.zeros(paths)

    def update(self, treated: Any, pi: Any, failed: Any = 1.0) -> None:
        """Bet on one unit per path; nothing changes where `failed` is 0."""
        said = np.broadcast_to(np.asarray(failed, dtype=bool), self._units.shape)
        count = self._units + 1
        kept = np.logaddexp(self._logs, -np.log(count * (count + 1))[:, None])
        arm = np.broadcast_to(np.asarray(treated, dtype=float), said.shape)[:, None]
        share = np.broadcast_to(np.asarray(pi, dtype=float), said.shape)[:, None]
        factor = arm * np.log(TIMES) - np.log(TIMES * share + 1 - share)
        self._logs = np.where(said[:, None], kept + factor, self._logs)
        self._units = self._units + said
        self._candidates = self._candidates + said * arm[:, 0]
        np.maximum(self._peak, self.log_e(), out=self._peak)

    def log_e(self) -> Floats:
        """log of the e-values now, by path."""
        won = np.logaddexp.reduce(self._logs, axis=1) - np.log(len(TIMES))
        return np.asarray(np.logaddexp(won, -np.log(self._units + 1)))

    def keep(self, paths: npt.NDArray[np.intp]) -> None:
        """Go on with these paths alone."""
        self._logs, self._peak = self._logs[paths], self._peak[paths]
        self._units, self._candidates = self._units[paths], self._candidates[paths]

    def stand(self) -> list[Failed]:
        """Of each path."""
        rows = zip(self._peak, self._units, self._candidates, strict=True)
        return [Failed(float(peak), int(units), int(ours)) for peak, units, ours in rows]

"""Each mistake that this rule invites is planted, and a test of the rule must fail on it.

A guard is a test of the suite, or what it is made of: it passes on the rule as it stands, and fails
once the smallest function that matters is replaced by the mistaken one.
"""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from everlearn.lake.ducklake import open_lake
from serving.release import observations
from serving.release.accounts import Account
from serving.release.analysis import Score, propensity
from tests.builders import make_service
from tests.release import test_analysis, test_observations, test_rehearse, test_units

Plant = Callable[[pytest.MonkeyPatch], None]
Guard = Callable[[Path], None]


def drawn(folder: Path) -> None:
    """Users return, within a step and in the next; an account of its own says what each is."""
    with closing(open_lake(make_service(folder))) as lake:
        test_units.test_each_that_was_drawn_counts_once_a_step_with_the_chance_that_it_had(
            lake, "user"
        )


def said_too_late(folder: Path) -> None:
    """Thumbs that come after a unit's closing age, counted after an outage."""
    with closing(open_lake(make_service(folder))) as lake:
        test_observations.test_what_is_said_after_the_closing_age_is_unheard_however_late_it_is_counted(
            lake
        )


def falling(_: Path) -> None:
    test_analysis.test_an_identical_version_is_not_promoted_while_everything_gets_worse()


def silent(_: Path) -> None:
    test_rehearse.test_a_candidate_whose_users_are_heard_of_half_as_often_is_not_promoted()


def fair(_: Path) -> None:
    test_analysis.test_a_bet_is_fair_when_only_the_means_are_equal()


def written_out(_: Path) -> None:
    """The formula, one number at a time: the candidate wins first and loses then."""
    dice = np.random.default_rng(4)
    seen = [(bool(dice.random() < 0.5), 0.5, float(rise), 0) for rise in [True] * 30 + [False] * 30]
    won = [(t, pi, y if t else 1 - y, stratum) for t, pi, y, stratum in seen]
    test_analysis.test_it_is_the_formula.hypothesis.inner_test(won)  # type: ignore[attr-defined]


def replaced(name: str, by: Callable[..., Any], of: Any = observations) -> Plant:
    return lambda patch: patch.setattr(of, name, by)


def share_at_counting(
    share: float, arm: str | None, former: float | None, _: int = 1
) -> float | None:
    """Of the step that the release has reached, not of the one in which the unit was drawn."""
    return propensity(test_units.STEPS[1] / 100, arm, former)


def share_alone(share: float, arm: str | None, former: float | None, _: int = 1) -> float | None:
    """Who returns is taken for somebody new."""
    return propensity(share, None, None)


def by_request(patch: pytest.MonkeyPatch) -> None:
    """Users stay where they are, and each of their requests counts."""
    answers = observations._ANSWERS.replace("coalesce(draw, unit)", "completion_id")
    assert answers != observations._ANSWERS
    patch.setattr(observations, "_ANSWERS", answers)


def never_fed(patch: pytest.MonkeyPatch) -> None:
    """The sample-ratio check stands there, and nobody tells it anything."""
    count = Account.add_each

    def add_each(self: Account, *unit: Any, **more: Any) -> None:
        kept, self._ratio = self._ratio, None
        count(self, *unit, **more)
        self._ratio = kept

    patch.setattr(Account, "add_each", add_each)


update = Score.update


def self_normalised(self: Score, treated: Any, pi: Any, value: Any, *rest: Any, **more: Any) -> Any:
    """The variance by which a bet is scaled has seen what is bet on."""
    (stratum,) = rest[:1] or (0,)
    past = self._past[self._rows, stratum]
    product = (treated - pi) * (value - past[:, 1] / past[:, 0])
    past[:, 2] += 4 * np.square(product)
    self._past[self._rows, stratum] = past
    return update(self, treated, pi, value, *rest, **more)


def share_now(self: Score, treated: Any, pi: Any, value: Any, *rest: Any, **more: Any) -> Any:
    """Every unit is taken to have had the chance that the last step gives."""
    return update(self, treated, 0.5, value, *rest, **more)


def no_peak(self: Score, *unit: Any, **more: Any) -> Any:
    """Only where the e-value stands now."""
    counted = update(self, *unit, **more)
    self.peak = self.log_e()
    return counted


class Fault(NamedTuple):
    """A mistake, and what must fail on it."""

    plant: Plant
    guard: Guard


FAULTS = {
    "the share of the step at which a unit is counted": Fault(
        replaced("propensity", share_at_counting), drawn
    ),
    "no conditioning of users who return": Fault(replaced("propensity", share_alone), drawn),
    "requests of one draw counted one by one": Fault(by_request, drawn),
    "a sample-ratio check that is never fed": Fault(never_fed, silent),
    "a self-normalised variance": Fault(replaced("update", self_normalised, Score), fair),
    "the current share of candidates": Fault(replaced("update", share_now, Score), falling),
    "values that are not frozen at one age": Fault(
        lambda patch: patch.setattr(observations, "_IN_TIME", "scored.value"), said_too_late
    ),
    "a crossing that is forgotten": Fault(replaced("update", no_peak, Score), written_out),
}


@pytest.mark.parametrize("guard", dict.fromkeys(fault.guard for fault in FAULTS.values()))
def test_the_rule_itself_passes_every_guard(guard: Guard, tmp_path: Path) -> None:
    guard(tmp_path)


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_caught(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant, guard = FAULTS[name]
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        guard(tmp_path)

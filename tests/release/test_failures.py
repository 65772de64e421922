"""Failures alone: how few it takes, and how seldom an identical version is accused by them."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from serving.release.decide import Evidence, MetricEvidence, harm
from serving.release.failures import FAILURES, Failed, Failures
from serving.release.observations import frozen
from serving.release.states import Phase
from tests.release.world import World, make_rules

LEVEL = 0.05 / 3 / 2
"""Its part by default: half of error_rate's third of the guardrails' half of `harm_level`."""
WELL = {"thumbs": 0.5, "good": 0.97}


def crossed(failures: Failures) -> float:
    """Share of the paths that were ever accused."""
    return float(np.mean([found.harm >= math.log(1 / LEVEL) for found in failures.stand()]))


@pytest.mark.parametrize("pi", [0.01, 0.05, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("times", [1.0, 0.5])
def test_a_version_that_fails_no_more_often_is_accused_within_its_level(
    pi: float, times: float
) -> None:
    """2,000 releases of 400 failures each, looked at after every one."""
    dice, failures = np.random.default_rng(int(100 * pi)), Failures(2000)
    share = times * pi / (times * pi + 1 - pi)
    for _ in range(400):
        failures.update((dice.random(2000) < share).astype(float), pi)
    assert crossed(failures) <= LEVEL + 3 * math.sqrt(LEVEL / 2000)


def test_the_level_holds_through_a_ramp_and_a_change_of_how_much_fails() -> None:
    """An identical version of 2 % failures, then 20 %: 4,000 units at each of four steps."""
    dice, failures = np.random.default_rng(7), Failures(1000)
    for pi, rate in ((0.01, 0.02), (0.05, 0.02), (0.25, 0.20), (0.5, 0.02)):
        for failed in dice.random((int(4000 * rate * 2), 1000)) < 0.5:
            treated = (dice.random(1000) < pi).astype(float)
            failures.update(treated, pi, failed)
    assert crossed(failures) <= LEVEL + 3 * math.sqrt(LEVEL / 1000)


@pytest.mark.parametrize(("pi", "most"), [(0.01, 2), (0.05, 3), (0.25, 6), (0.5, 12), (0.9, 80)])
def test_few_failures_accuse_a_version_that_alone_fails(pi: float, most: int) -> None:
    failures = Failures()
    for _ in range(most):
        failures.update(1.0, pi)
    assert crossed(failures) == 1.0
    assert failures.stand()[0][1:] == (most, most)


def test_a_version_that_was_better_and_then_breaks_is_found_all_the_same() -> None:
    failures = Failures()
    for _ in range(200):
        failures.update(0.0, 0.5)
    assert crossed(failures) == 0.0
    for _ in range(40):
        failures.update(1.0, 0.5)
    assert crossed(failures) == 1.0


def test_the_bet_is_fair_at_every_failure_of_an_identical_version() -> None:
    """Each step multiplies by 1 in the mean, whatever came before."""
    dice = np.random.default_rng(3)
    before = Failures()
    for pi in dice.uniform(0.01, 0.95, 50):
        after = []
        for treated in (0.0, 1.0):
            one = Failures()
            one._logs, one._units = before._logs.copy(), before._units.copy()
            one.update(treated, pi)
            after.append(math.exp(one.log_e()[0]))
        mean = pi * after[1] + (1 - pi) * after[0]
        assert mean == pytest.approx(math.exp(before.log_e()[0]))
        before.update(float(dice.random() < pi), pi)


def test_failures_and_closed_units_have_half_of_the_metrics_level_each() -> None:
    rules = make_rules(guardrails=("error_rate", "good"))

    def line(**found: object) -> str | None:
        metric = MetricEvidence("error_rate")._replace(**found)  # type: ignore[arg-type]
        return harm(Evidence(MetricEvidence("thumbs"), (metric, MetricEvidence("good"))), rules)

    assert line(failed=Failed(math.log(79), 9, 9), harm=math.log(79)) is None
    assert line(harm=math.log(81)) is not None
    assert line(failed=Failed(math.log(81), 9, 8)) == (
        "harm e-value 81 >= 80 on failures alone of error_rate: 9 units failed, 8 of them on the "
        "candidate"
    )


def test_a_version_that_breaks_is_rolled_back_before_any_unit_has_closed(
    make_world: Callable[..., World],
) -> None:
    world = make_world(make_rules(steps=(50, 100), guardrails=("error_rate",)))
    world.ramp(answer_seconds=300.0)
    world.ask(60, WELL, {**WELL, "ok": 0.0})
    world.clock.sleep(0.1)
    world.loop.glance()
    assert world.release.phase is Phase.ROLLED_BACK
    assert "on failures alone of error_rate" in world.release.reason
    assert world.route.challenger is None
    rows = frozen(world.lake, world.release.release_id)
    assert {row.metric for row in rows} == {FAILURES}
    assert all(row.treated for row in rows)


def test_a_glance_counts_each_failed_unit_once_and_takes_no_step(
    make_world: Callable[..., World],
) -> None:
    """Both arms fail alike; the one who comes again was counted."""
    world = make_world(make_rules(guardrails=("error_rate",), min_candidates=0))
    world.ramp(answer_seconds=20.0)
    for _ in range(4):
        world.ask(10, {**WELL, "ok": 0.5}, {**WELL, "ok": 0.5})
        world.answer("again", world.clock.now(), status="timeout")
        world.clock.sleep(4.0)
        world.loop.glance()
        world.loop.glance()
    counted = [row.unit for row in frozen(world.lake, world.release.release_id)]
    assert counted.count("again") == 1
    assert len(set(counted)) == len(counted) > 10
    assert (world.release.phase, world.release.stage) == (Phase.RAMPING, 0)
    world.loop.tick()
    assert world.release.stage == 1


def test_a_unit_that_has_closed_is_no_bet_any_more(make_world: Callable[..., World]) -> None:
    world = make_world(make_rules(guardrails=("error_rate",), min_dwell_seconds=600))
    world.ramp(answer_seconds=5.0)
    world.answer("u", world.clock.now())
    world.clock.sleep(6.0)
    world.loop.tick()
    world.answer("u", world.clock.now(), status="upstream_error")
    world.clock.sleep(1.0)
    world.loop.tick()
    rows = frozen(world.lake, world.release.release_id)
    assert [row.value for row in rows if row.metric == "error_rate"] == [1.0]
    assert FAILURES not in {row.metric for row in rows}


def test_a_promotion_whose_version_breaks_later_is_taken_back_by_its_failures(
    make_world: Callable[..., World],
) -> None:
    world = make_world(make_rules(guardrails=("error_rate",)))
    world.promote()
    world.ask(50, WELL, WELL, WELL)
    world.clock.sleep(1.0)
    world.loop.glance()
    assert world.route.champion.version == "7"
    world.ask(300, {**WELL, "ok": 0.0}, WELL, WELL)
    world.clock.sleep(0.1)
    world.loop.glance()
    assert world.route.champion.version == "base"

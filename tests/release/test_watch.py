"""After a promotion: harm that comes late takes the champion back, and nothing else does."""

from collections.abc import Callable
from typing import NamedTuple

import msgspec
import numpy as np

from gateway.assignment import assign
from serving.release.accounts import BELOW
from serving.release.analysis import Floats
from serving.release.decide import Evidence, MetricEvidence, harm_levels
from serving.release.history import events
from serving.release.observations import frozen
from serving.release.routing import render
from serving.release.states import Phase, Release, Traffic, begin, change
from serving.release.verbs import Desk
from serving.release.watch import EPOCHS, Late, at_epoch, verdict
from tests.release.world import BASE, CANDIDATE, World, make_release, make_rules

GOOD = {"good": 0.97, "thumbs": 0.9}
FAIR = {"good": 0.97, "thumbs": 0.5}
SPOILED = {"good": 0.2, "thumbs": 0.1}
NOW = 1_800_000_000.0
DAY = 86_400.0


def promoted(**rules: object) -> Traffic:
    release = make_release(make_rules(**rules), phase=Phase.LOADING)
    loaded = change(begin(Traffic(champion=BASE), release), Phase.RAMPING, "loaded", NOW)
    return change(loaded, Phase.PROMOTED, "won", NOW)


def watch_of(traffic: Traffic) -> Release:
    assert traffic.watch is not None
    return traffic.watch


class Fate(NamedTuple):
    """Of many watches: when each took its champion back, in days, and whom that cost an answer."""

    days: Floats
    hurt: Floats


def live(
    effects: tuple[float, ...], *, runs: int, per_day: int, percent: float = 10.0, seed: int = 0
) -> Fate:
    """Watches of a champion whose effect on a rate of 0.6 is that of each day."""
    dice = np.random.default_rng(seed)
    late, pi = Late(BELOW, runs), 1 - percent / 100
    # The primary metric's part, where two guardrails have the other half.
    own, _ = harm_levels(make_rules(harm_level=make_rules().watch_level), 2)
    days, hurt = np.full(runs, np.inf), np.zeros(runs)
    for day, effect in enumerate(effects):
        for unit in range(per_day):
            treated = (dice.random(runs) < pi).astype(float)
            value = (dice.random(runs) < 0.6 + effect * treated).astype(float)
            late.update(treated, pi, value, epoch=day)
            on = np.isinf(days)
            hurt += on * treated * (effect < 0)
            days[on & (late.peak >= np.log(1 / own))] = day + (unit + 1) / per_day
        if np.isfinite(days).all():
            break
    return Fate(days, hurt)


def test_ten_points_lost_from_the_third_day_on_are_taken_back_in_every_one_of_200() -> None:
    fate = live((0.05, 0.05, *[-0.1] * 5), runs=200, per_day=3000)
    assert np.isfinite(fate.days).all()
    assert fate.days.min() > 2
    assert np.median(fate.days) < 3.5
    assert np.median(fate.hurt) < 4000


def test_an_identical_version_is_taken_back_no_oftener_than_the_level_says() -> None:
    fate = live((0.0,) * EPOCHS, runs=1000, per_day=300, seed=1)
    assert np.isfinite(fate.days).mean() <= 0.025


def test_who_comes_every_day_is_drawn_anew_every_day_and_held_back_users_are_not() -> None:
    traffic = promoted(holdback_percent=1, watch_percent=10)
    by_day = []
    for epoch in range(3):
        moved = msgspec.structs.replace(watch_of(traffic), stage=epoch)
        route = render(msgspec.structs.replace(traffic, watch=moved))
        found = {n: assign(route, "t", f"u{n}")[:2] for n in range(4000)}
        by_day.append({n for n, each in found.items() if each == ("holdback", 0.1)})
        always = {n for n, each in found.items() if each == ("holdback", 0.01)}
        assert 20 < len(always) < 70
        assert 320 < len(by_day[-1]) < 480
    assert len(by_day[0] & by_day[1]) < 80
    assert render(traffic).champion == CANDIDATE
    assert render(traffic).holdback == BASE


def test_a_watch_waits_while_another_version_is_compared() -> None:
    traffic = begin(promoted(), make_release(release_id="next", phase=Phase.LOADING))
    assert render(traffic).watch_share == 0
    ramping = change(traffic, Phase.RAMPING, "loaded", NOW + 5)
    assert (render(ramping).release, render(ramping).watch_share) == ("next", 0.0)
    ended = change(ramping, Phase.STOPPED, "futile", NOW + 9)
    assert render(ended).release == watch_of(traffic).release_id
    assert render(ended).watch_share == 0.1


def test_a_clock_that_goes_back_reopens_no_epoch_and_a_late_one_ends_nothing_early() -> None:
    watch = watch_of(promoted(watch_seconds=7 * DAY))
    third = at_epoch(watch, NOW + 2.5 * DAY)
    assert third.stage == 2
    assert at_epoch(third, NOW - DAY) is third
    assert at_epoch(third, NOW + 99 * DAY).stage == EPOCHS - 1
    unseen = Evidence(MetricEvidence("thumbs"))
    assert verdict(watch, unseen, NOW + 6.9 * DAY) is None
    ended = verdict(watch, unseen, NOW + 7.1 * DAY)
    assert ended is not None
    assert not ended.harmful
    assert verdict(watch, unseen._replace(problem="lake away"), NOW + 8 * DAY) is None


def test_no_watch_where_none_is_wanted() -> None:
    traffic = promoted(watch_seconds=0)
    assert traffic.watch is None
    assert render(traffic).watch_share == 0


def test_a_champion_that_is_spoiled_later_is_taken_back_by_itself(
    make_world: Callable[..., World],
) -> None:
    world = make_world(make_rules(watch_seconds=700, watch_percent=20))
    world.promote()
    assert world.route.watch_share == 0.2
    for turn in range(12):
        world.ask(80, GOOD if turn < 4 else SPOILED, FAIR, held=FAIR)
        world.clock.sleep(20.0)
        world.loop.tick()
        if world.route.champion == BASE:
            break
    assert 4 <= turn < 11
    last = events(world.lake, "text2sql")[-1]
    assert last["event"] == "rolled_back"
    assert "watched after its promotion: harm e-value" in last["reason"]
    assert world.release.phase is Phase.ROLLED_BACK
    traffic = world.book.traffic("text2sql")
    assert traffic is not None
    assert (traffic.watch, traffic.holdback) == (None, None)
    rows = frozen(world.lake, f"{last['release_id']}.watch")
    assert {row.propensity for row in rows} == {0.8}
    assert {row.treated for row in rows} == {True, False}


def test_a_watch_without_harm_ends_quietly_after_a_kill_too(
    make_world: Callable[..., World],
) -> None:
    world = make_world(make_rules(watch_seconds=100, watch_percent=20))
    world.promote()
    for turn in range(7):
        world.ask(30, GOOD, GOOD, held=FAIR)
        world.clock.sleep(16.0)
        world.loop.tick()
        if turn == 3:
            world.restart()
    last = events(world.lake, "text2sql")[-1]
    assert (last["event"], last["phase"]) == ("watched", "promoted")
    assert "no harm at level 0.05" in last["reason"]
    assert last["evidence"]["thumbs"]["units"] > 100
    assert (world.route.champion, world.route.watch_share) == (CANDIDATE, 0.0)
    assert world.route.holdback == BASE
    assert world.release.phase is Phase.PROMOTED


def test_an_operator_may_go_back_during_the_watch(make_world: Callable[..., World]) -> None:
    world = make_world()
    world.promote()
    Desk(world.service, world.task, world.clock).rollback("users complain")
    world.loop.tick()
    assert (world.route.champion, world.route.watch_share) == (BASE, 0.0)

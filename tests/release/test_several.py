"""Several challengers of one release: the pure decision, and what it promises through `decide`."""

import itertools
from typing import Any

import numpy as np
import pytest

from gateway.assignment import assign
from gateway.routes import ArmRoute, TaskRoute
from serving.release.analysis import propensity
from serving.release.challengers import abreast, end_all, facing, running, settled
from serving.release.decide import Decision, Evidence, MetricEvidence, decide
from serving.release.rehearse import Rates
from serving.release.rehearse_several import Ends, rehearse_several
from serving.release.routing import render
from serving.release.several import Weighed, together
from serving.release.states import Phase, Traffic, begin, change
from tests.release.world import BASE, make_release, make_rules

T = 1_800_000_000.0
ARMS = [ArmRoute(version=version, model=f"m-{version}") for version in ("7", "8", "9")]
STAY = (Phase.RAMPING, 0)


def weighed(which: int, phase: Phase, stage: int = 0, promote: float = 0.0) -> Weighed:
    release = abreast(make_release(), ARMS)[which]
    evidence = Evidence(MetricEvidence("thumbs", promote=promote))
    return Weighed(release, evidence, Decision(phase, f"why {which}", stage))


def ramping(count: int = 3, **overrides: Any) -> Traffic:
    fields = {"phase": Phase.LOADING, "release_id": "rel_a", "alpha": 0.03, **overrides}
    lead, *others = abreast(make_release(**fields), ARMS[:count])
    traffic = begin(Traffic(champion=BASE), lead, *others)
    for each in running(traffic):
        traffic = change(facing(traffic, each.release_id), Phase.RAMPING, "loaded", T)
    return settled(traffic)


def test_each_challenger_has_an_equal_part_of_the_levels_and_they_are_spent_once() -> None:
    traffic = ramping()
    found = running(traffic)
    assert [each.release_id for each in found] == ["rel_a", "rel_a.2", "rel_a.3"]
    assert {each.drawn_as for each in found} == {"rel_a"}
    assert [each.alpha for each in found] == pytest.approx([0.01] * 3)
    assert found[1].parsed_rules.harm_level == pytest.approx(make_rules().harm_level / 3)
    assert traffic.budget.spent == pytest.approx(0.03)
    assert traffic.budget.releases == 1


def test_the_first_that_is_proven_is_chosen_and_of_two_the_one_with_more_evidence() -> None:
    proven = weighed(1, Phase.PROMOTED, promote=6.0)
    ends = together([weighed(0, Phase.PROMOTED, promote=5.0), proven, weighed(2, *STAY)])
    assert [each.phase for each in ends] == [
        Phase.NOT_CHOSEN, Phase.PROMOTED, Phase.NOT_CHOSEN,
    ]  # fmt: skip
    assert ends[1].reason == "why 1"
    assert ends[0].reason.startswith("version 8 was proven with more evidence: promote e-value 403")
    assert ends[2].reason.startswith("version 8 was proven first")
    harmed = together([weighed(0, Phase.ROLLED_BACK), proven])
    assert [each.phase for each in harmed] == [Phase.ROLLED_BACK, Phase.PROMOTED]


def test_a_step_is_taken_by_all_that_run_or_by_none() -> None:
    step = (Phase.RAMPING, 1)
    assert [each.stage for each in together([weighed(0, *step), weighed(1, *step)])] == [1, 1]
    held = together([weighed(0, *step), weighed(1, *STAY), weighed(2, *step)])
    assert [each.stage for each in held] == [0, 0, 0]
    assert held[0].reason == "waits for version 8: why 1"
    dropped = together([weighed(0, *step), weighed(1, Phase.STOPPED), weighed(2, *step)])
    assert [each.stage for each in dropped] == [1, 0, 1]


def test_one_challenger_decides_by_itself() -> None:
    for phase, stage in itertools.product(Phase, (0, 1)):
        alone = weighed(0, phase, stage)
        assert together([alone]) == [alone.decision]


def test_a_dropped_challenger_leaves_its_part_to_the_champion_and_a_running_one_is_in_front() -> (
    None
):
    traffic = ramping()
    route = render(traffic)
    assert (route.challenger, route.challenger_share) == (None, 0.05)
    assert [arm and arm.version for arm in route.challengers] == ["7", "8", "9"]
    one = settled(change(facing(traffic, "rel_a"), Phase.ROLLED_BACK, "harm", T + 1))
    assert [arm and arm.version for arm in render(one).challengers] == [None, "8", "9"]
    assert render(one).release == "rel_a"
    assert one.release is not None
    assert (one.release.release_id, one.release.phase) == ("rel_a.2", Phase.RAMPING)
    assert one.notes[-1].version == "8"
    two = settled(change(facing(one, "rel_a.2"), Phase.STOPPED, "futile", T + 2))
    over = settled(change(facing(two, "rel_a.3"), Phase.INCONCLUSIVE, "time", T + 3))
    assert running(over) == ()
    assert render(over) == TaskRoute(champion=BASE)


def test_an_operator_ends_all_of_them_at_once() -> None:
    over = end_all(ramping(), Phase.ABORTED, "enough", T + 1)
    assert running(over) == ()
    assert [event.version for event in over.events if event.event == "aborted"] == ["7", "8", "9"]


def test_the_winner_is_crowned_and_watched_by_a_draw_of_its_own() -> None:
    won = change(facing(ramping(), "rel_a.2"), Phase.PROMOTED, "proven", T + 1)
    assert won.champion.version == "8"
    assert won.watch is not None
    assert (won.watch.drawn_as, won.watch.challengers) == ("rel_a.2.watch", 1)
    assert won.budget.promotions == 1


def several_route(share: float, *dropped: int) -> TaskRoute:
    arms = tuple(None if n in dropped else arm for n, arm in enumerate(ARMS))
    return TaskRoute(champion=BASE, challengers=arms, challenger_share=share, release="r1")


UNITS = [f"u{n}" for n in range(6000)]


def test_challengers_share_equally_and_the_probability_is_among_the_champion_and_one() -> None:
    found = [assign(several_route(0.6), "t", unit) for unit in UNITS]
    parts = [sum(each[::2] == ("challenger", n) for each in found) / len(found) for n in range(3)]
    assert parts == pytest.approx([0.2] * 3, abs=0.02)
    pi = 0.2 / (0.2 + 0.4)
    by_arm = {(each.arm, round(each.probability, 9)) for each in found}
    assert by_arm == {("challenger", round(pi, 9)), ("champion", round(1 - pi, 9))}


def test_units_stay_as_the_share_grows_and_a_drop_moves_nobody_else() -> None:
    small, large, less = (
        {unit: assign(route, "t", unit) for unit in UNITS}
        for route in (several_route(0.1), several_route(0.6), several_route(0.6, 1))
    )
    for unit in UNITS:
        if small[unit].arm == "challenger":
            assert large[unit].which == small[unit].which
            assert large[unit].arm == "challenger"
        if large[unit].arm == "challenger" and large[unit].which == 1:
            # On the champion for certain: it tells nothing of the others.
            assert less[unit] == ("champion", 1.0, 0)
        else:
            assert less[unit] == large[unit]


def test_the_propensity_of_who_returns_is_what_the_draw_makes_it() -> None:
    before, after = (
        [assign(several_route(share), "t", unit) for unit in UNITS] for share in (0.3, 0.6)
    )
    again = [new for old, new in zip(before, after, strict=True) if old.arm == "champion"]
    for which in range(3):
        mine = [each for each in again if each.arm == "champion" or each.which == which]
        asked = next(each.probability for each in mine if each.arm == "challenger")
        pi = propensity(asked, "champion", 0.3, 3)
        assert pi == pytest.approx(0.1 / (0.1 + 0.4))
        share = sum(each.arm == "challenger" for each in mine) / len(mine)
        assert share == pytest.approx(pi, abs=0.03)
    assert propensity(0.5, "challenger", 0.3, 3) is None
    # Who was drawn for a dropped one says nothing at any later step.
    assert propensity(0.0, "champion", 0.3, 3) is None


LOOSE = {"guardrails": (), "min_dwell_seconds": 20, "max_seconds": 1e9, "futility_level": 1e-9}


def played(effects: tuple[float, ...], runs: int, **overrides: Any) -> Ends:
    rules = make_rules(**{**LOOSE, **overrides})
    rates = [{"thumbs": Rates(0.6, 0.6 + effect)} for effect in effects]
    return rehearse_several(rules, rates, alpha=0.1, runs=runs, most_units=2400, seed=5)


def test_of_identical_challengers_any_is_promoted_no_oftener_than_the_level_says() -> None:
    ends = played((0.0, 0.0, 0.0), 400, harm_level=1e-9)
    assert ends.promoted() <= 0.1
    # What a level of the whole for each would do: the test can tell.
    wrong = rehearse_several(
        make_rules(**LOOSE, harm_level=1e-9), [{"thumbs": Rates(0.6, 0.6)}] * 3,
        alpha=0.3, runs=400, most_units=2400, seed=5,
    )  # fmt: skip
    assert wrong.promoted() > 1.5 * ends.promoted()


def test_the_better_of_three_is_found_and_the_worse_is_dropped_meanwhile() -> None:
    ends = played((-0.3, 0.2, 0.0), 40)
    assert ends.promoted(1) >= 0.9
    assert ends.promoted(0) == 0.0
    assert np.mean([phases[0] is Phase.ROLLED_BACK for phases in ends.phases]) >= 0.5
    chosen = [phases for phases in ends.phases if phases[1] is Phase.PROMOTED]
    assert np.mean([phases[2] is Phase.NOT_CHOSEN for phases in chosen]) >= 0.8


def test_of_identical_challengers_any_is_dropped_for_harm_no_oftener_than_its_level_says() -> None:
    ends = played((0.0, 0.0, 0.0), 200)
    assert np.mean([Phase.ROLLED_BACK in phases for phases in ends.phases]) <= 0.1


def test_a_shared_champion_saves_a_third_of_the_units_of_two_releases_one_after_the_other() -> None:
    """Effect 20 points each, half of the traffic on challengers, at one level."""
    rules = make_rules(**{**LOOSE, "steps": (50, 100), "min_dwell_seconds": 0, "min_units": 0})
    rates = {"thumbs": Rates(0.5, 0.7)}
    one, two = (
        rehearse_several(rules, [rates] * k, alpha=0.02 * k, runs=100, most_units=4000, seed=6)
        for k in (1, 2)
    )
    # Of two that are as good the first to be proven ends it: well before twice the time.
    assert np.median(two.units) < 1.4 * np.median(one.units)


def test_a_rehearsal_of_one_is_a_release_of_one() -> None:
    release = make_release()
    assert abreast(release, [release.candidate])[0] == release
    assert decide(release, Evidence(MetricEvidence("thumbs")), make_rules(), T).phase is (
        Phase.RAMPING
    )

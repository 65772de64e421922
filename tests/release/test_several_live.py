"""Several challengers under the controller, over a real lake, state and routes."""

from collections.abc import Callable
from typing import Any

import pytest

from everlearn.errors import InputError, ReleaseBusy
from everlearn.ids import new_id
from everlearn.lake.store import Transaction
from gateway.assignment import assign, draw
from gateway.routes import ArmRoute
from serving.release.challengers import every, running
from serving.release.controller import TaskLoop
from serving.release.history import by_arm, events
from serving.release.observations import Window, closed_units, frozen, metric
from serving.release.states import Phase, Release, Traffic
from serving.release.verbs import Desk
from tests.builders import make_completion
from tests.release.world import World, make_rules

A, B, C = (ArmRoute(version=version, model=f"m-{version}") for version in ("7", "8", "9"))
FAIR = {"good": 0.97, "thumbs": 0.5}
GOOD = {"good": 0.97, "thumbs": 0.9}
SPOILED = {"good": 0.0, "thumbs": 0.0, "ok": 0.0}
UNDECIDED: dict[str, Any] = {
    "alpha": 1e-9, "smallest_effect": 0.01, "guardrails": ("error_rate",), "watch_seconds": 0,
}  # fmt: skip


def traffic_of(world: World) -> Traffic:
    found = world.book.traffic("text2sql")
    assert found is not None
    return found


def phases(world: World) -> dict[str, Phase]:
    return {each.candidate.version: each.phase for each in every(traffic_of(world))}


def live(world: World, seconds: int, users: int, by_version: dict[str, dict[str, float]]) -> None:
    for _ in range(0, seconds, 5):
        world.ask(users * 5, FAIR, FAIR, by_version=by_version)
        world.clock.sleep(5.0)
        world.loop.tick()
        if not world.release.active:
            return


def test_the_better_is_promoted_the_spoiled_dropped_at_once_and_the_third_not_chosen(
    make_world: Callable[..., World],
) -> None:
    rules = make_rules(steps=(30, 60, 100), guardrails=("error_rate",), futility_level=1e-6)
    world = make_world(rules)
    world.ramp_several(A, B, C)
    assert world.route.challenger_share == 0.3
    live(world, 15, 30, {"7": SPOILED, "8": GOOD, "9": FAIR})
    assert phases(world) == {"7": Phase.ROLLED_BACK, "8": Phase.RAMPING, "9": Phase.RAMPING}
    assert [arm and arm.version for arm in world.route.challengers] == [None, "8", "9"]
    live(world, 300, 20, {"7": SPOILED, "8": GOOD, "9": FAIR})
    ends = phases(world)
    assert ends == {"7": Phase.ROLLED_BACK, "8": Phase.PROMOTED, "9": Phase.NOT_CHOSEN}
    assert (world.route.champion.version, world.route.challengers) == ("8", ())
    won = world.release
    assert won.candidate == B
    told = events(world.lake, "text2sql", won.release_id)
    assert [row["event"] for row in told[:2]] == ["started", "step"]
    assert told[-1]["event"] == "promoted"
    assert told[-1]["evidence"]["thumbs"]["mean_candidate"] > 0.8
    third = next(each for each in every(traffic_of(world)) if each.candidate == C)
    last = events(world.lake, "text2sql", third.release_id)[-1]
    assert last["event"] == "not_chosen"
    assert last["reason"].startswith("version 8 was proven first: promote e-value")
    arms = by_arm(world.lake, "text2sql", third)
    assert arms["challenger"]["quality"] == pytest.approx(0.5, abs=0.2)


def test_each_is_compared_with_every_unit_of_the_champion_and_none_of_another_challenger(
    make_world: Callable[..., World],
) -> None:
    world = make_world(make_rules(**UNDECIDED, steps=(50, 100)))
    world.ramp_several(A, B, C)
    live(world, 20, 25, {})
    found = {
        each.candidate.version: [
            row for row in frozen(world.lake, each.release_id) if row.metric == "thumbs"
        ]
        for each in running(traffic_of(world))
    }
    champions = [{row.unit for row in rows if not row.treated} for rows in found.values()]
    assert champions[0] == champions[1] == champions[2]
    assert 140 < len(champions[0]) < 300
    treated = [{row.unit for row in rows if row.treated} for rows in found.values()]
    assert all(30 < len(units) < 120 for units in treated)
    assert not treated[0] & treated[1]
    assert not treated[1] & treated[2]
    sql = "SELECT DISTINCT version, draw FROM completions WHERE arm = 'challenger'"
    for version, drawn in (
        (row["version"], row["draw"]) for row in world.lake.read(sql).to_pylist()
    ):
        own = {row.unit for row in found[version]}
        assert drawn in own or drawn not in set().union(*treated)
    pi = (0.5 / 3) / (0.5 / 3 + 0.5)
    told = {row.propensity for rows in found.values() for row in rows}
    assert list(told) == [pytest.approx(pi)]


def test_units_drawn_for_a_dropped_challenger_tell_nothing_of_the_others(
    make_world: Callable[..., World],
) -> None:
    world = make_world(make_rules(**UNDECIDED, steps=(30, 60, 100)))
    world.ramp_several(A, B)
    live(world, 15, 20, {"7": SPOILED})
    assert phases(world)["7"] is Phase.ROLLED_BACK
    live(world, 20, 40, {})
    left = world.release
    assert left.candidate == B
    rows = [row for row in frozen(world.lake, left.release_id) if row.metric == "thumbs"]
    silent = [row for row in rows if row.propensity is None]
    assert len(silent) > 30
    assert not any(row.treated for row in silent)
    drawn_for_a = [row for row in rows if int(row.unit, 16) / 2**64 < 0.15]
    assert drawn_for_a
    assert all(row.propensity is None for row in drawn_for_a)


def test_a_failure_that_the_champion_hid_counts_against_the_challenger_that_was_drawn(
    make_world: Callable[..., World],
) -> None:
    world = make_world(make_rules(**UNDECIDED, steps=(50, 100)))
    world.ramp_several(A, B)
    rows = []
    for n in range(200):
        asks = make_completion(task="text2sql", unit=f"u{n}", received_at=world.clock.now())
        drawn = draw(world.route, asks)
        found = assign(world.route, "text2sql", f"u{n}", drawn)
        hid = (found.arm, found.which) == ("challenger", 1)
        rows.append(
            {
                "completion_id": new_id("cmpl"), "task": "text2sql", "unit": f"u{n}",
                "draw": drawn, "probability": found.probability, "release": world.route.release,
                "stage": 0, "received_at": world.clock.now(), "status": "ok",
                "arm": "champion" if hid else found.arm, "version": "base",
                "fallback_from": "challenger" if hid else None,
            }
        )  # fmt: skip

    def work(transaction: Transaction) -> None:
        transaction.append("completions", rows)

    world.lake.commit(work)
    lost = [row["draw"] for row in rows if row["fallback_from"]]
    assert len(lost) > 30
    for each in running(traffic_of(world)):
        wanted = metric(world.task, each, "error_rate")
        window = Window(world.clock.now() + 60, each.created_at)
        due = closed_units(world.lake, "text2sql", each, wanted, window)
        failed = {row["unit"] for row in due if row["value"] == 0.0}
        assert failed == (set(lost) if each.which == 1 else set())


def test_a_killed_controller_goes_on_with_the_same_evidence_of_each(
    make_world: Callable[..., World],
) -> None:
    world = make_world(make_rules(**UNDECIDED, steps=(50, 100)))
    world.ramp_several(A, B)
    live(world, 15, 20, {})

    def evidence(loop: TaskLoop) -> list[Any]:
        found: list[Release] = list(running(traffic_of(world)))
        return [loop._weigh(each, glance=True).evidence.primary for each in found]

    before = evidence(world.loop)
    world.restart()
    assert evidence(world.loop) == before
    assert all(each.units > 50 for each in before)


def test_an_operator_aborts_all_and_a_second_release_waits_for_all(
    make_world: Callable[..., World],
) -> None:
    world = make_world(make_rules(supersede_after_seconds=0.0))
    world.ramp_several(A, B)
    desk = Desk(world.service, world.task, world.clock)
    other = Release(
        **{
            **{name: getattr(world.release, name) for name in ("rules", "alpha")},
            "release_id": "rel_new", "candidate": C, "created_at": world.clock.now(),
        }
    )  # fmt: skip
    with pytest.raises(ReleaseBusy, match="only one version takes the place of one"):
        desk._begin(other, lambda: A, lambda _: None)
    desk.abort("enough")
    assert phases(world) == {"7": Phase.ABORTED, "8": Phase.ABORTED}
    assert world.route.challengers == ()
    with pytest.raises(InputError, match="no release"):
        desk.abort("again")
    desk.close()

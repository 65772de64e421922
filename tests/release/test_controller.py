"""The controller over a real lake, state and routes; users are assigned as the gateway does."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from everlearn.errors import InputError
from serving.release.baseline import baseline, opening, unknown
from serving.release.budget import Budget
from serving.release.controller import TaskLoop
from serving.release.history import by_arm, events
from serving.release.observations import frozen
from serving.release.picture import draw_release
from serving.release.states import Phase, Release, Traffic
from serving.release.story import story
from serving.release.verbs import Desk
from tests.release.world import BASE, World, make_release, make_rules

GOOD = {"good": 0.97, "thumbs": 0.9}
FAIR = {"good": 0.97, "thumbs": 0.5}
SPOILED = {"good": 0.0, "thumbs": 0.05}


def test_a_better_version_takes_each_step_and_becomes_champion(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    world = make_world()
    world.ramp()
    world.live(300, 8, FAIR, GOOD)
    assert world.release.phase is Phase.PROMOTED
    assert "promote e-value" in world.release.reason
    assert "taken back by itself on harm, at level 0.05 of its own" in world.release.reason
    route = world.route
    assert (route.champion.version, route.challenger) == ("7", None)
    assert route.holdback is not None
    assert (route.holdback.version, route.holdback_share) == ("base", 0.01)
    rows = events(world.lake, "text2sql")
    percents = [row["percent"] for row in rows]
    assert percents == sorted(percents)
    assert rows[0]["event"] == "started"
    assert rows[-1]["event"] == "promoted"
    low, high = rows[-1]["evidence"]["thumbs"]["effect_95"]
    assert -0.1 < low < 0.4 < high
    told = story(world.lake, "text2sql", world.release)
    assert told.evidence[-1][1] == world.loop.counting.account(world.release).evidence()
    assert [step[2] for step in told.steps] == [row["event"] for row in rows]
    assert told.effect[-1][1:] == pytest.approx((low, high), abs=0.06)
    picture = tmp_path / "release.svg"
    draw_release(picture, "text2sql", world.release, told, Budget())
    text = picture.read_text()
    assert len(text) > 20_000
    arms = by_arm(world.lake, "text2sql", world.release)
    assert arms["challenger"]["quality"] > arms["champion"]["quality"] + 0.1
    assert arms["challenger"]["cost"] is None


def test_a_spoiled_version_is_rolled_back_within_seconds_of_its_first_bad_answer(
    make_world: Callable[..., World],
) -> None:
    world = make_world(make_rules(steps=(1, 5, 25, 50, 100), min_dwell_seconds=60), seed=3)
    world.ramp()
    world.live(120, 30, GOOD, SPOILED)
    assert world.release.phase is Phase.ROLLED_BACK
    assert "harm e-value" in world.release.reason
    assert world.route.challenger is None
    first = world.lake.read(
        "SELECT epoch(min(received_at)) AS t FROM completions WHERE version = '7'"
    )
    assert world.clock.now() - first["t"][0].as_py() < 25


def test_errors_of_the_candidate_are_harm_without_any_grader(
    make_world: Callable[..., World],
) -> None:
    world = make_world(make_rules(guardrails=("error_rate",)))
    world.ramp()
    world.live(60, 20, {"thumbs": 0.5}, {"thumbs": 0.5, "ok": 0.0})
    assert world.release.phase is Phase.ROLLED_BACK
    assert "on failures alone of error_rate" in world.release.reason


def test_a_slower_candidate_is_rolled_back_by_the_latency_guardrail(
    make_world: Callable[..., World],
) -> None:
    world = make_world(make_rules(guardrails=("latency_p95",)))
    world.ramp(latency_reference_ms=30.0)
    world.live(120, 10, {"thumbs": 0.5}, {"thumbs": 0.5, "latency_ms": 50.0})
    assert world.release.phase is Phase.ROLLED_BACK
    assert "on latency_p95 after" in world.release.reason


def test_a_version_that_is_no_better_is_stopped_as_futile(
    make_world: Callable[..., World],
) -> None:
    rules = make_rules(smallest_effect=0.4, guardrails=())
    world = make_world(rules)
    world.ramp()
    world.live(200, 8, FAIR, FAIR)
    assert world.release.phase is Phase.STOPPED
    assert "a gain of 0.4 is ruled out" in world.release.reason
    assert world.route.challenger is None


def test_an_ungated_version_is_never_promoted_however_good(
    make_world: Callable[..., World],
) -> None:
    world = make_world()
    world.ramp(ungated="to see", alpha=0.0)
    world.live(200, 8, FAIR, GOOD)
    assert world.release.phase is Phase.INCONCLUSIVE
    assert world.release.reason == "ungated (to see): goes no further than 50 %"
    assert world.route.champion.version == "base"


def test_a_killed_controller_goes_on_where_it_was_and_no_unit_counts_twice(
    make_world: Callable[..., World],
) -> None:
    world = make_world(make_rules(alpha=1e-6, smallest_effect=0.01))
    world.ramp()
    world.live(20, 8, FAIR, FAIR)
    rows = frozen(world.lake, world.release.release_id)
    summary = world.loop.counting.account(world.release).summary()
    world.loop.close()
    world.loop = TaskLoop(world.service, world.task, world.clock)
    assert world.loop.counting.account(world.release).summary() == summary
    world.live(20, 8, FAIR, FAIR)
    after = frozen(world.lake, world.release.release_id)
    assert after[: len(rows)] == rows
    assert len(after) > len(rows)
    assert [row.position for row in after] == list(range(len(after)))
    keys = [(row.metric, row.unit, row.stage) for row in after]
    assert len(set(keys)) == len(keys)


def test_a_score_that_comes_after_the_unit_has_closed_changes_nothing(
    make_world: Callable[..., World],
) -> None:
    world = make_world()
    world.ramp()
    world.live(12, 4, FAIR, FAIR)
    rows = frozen(world.lake, world.release.release_id)
    world.lake.commit(
        lambda t: t.query("UPDATE scores SET value = 1 - value WHERE value IS NOT NULL")
    )
    world.loop.tick()
    assert frozen(world.lake, world.release.release_id)[: len(rows)] == rows


def test_an_event_is_told_once_though_the_outbox_was_not_emptied(
    make_world: Callable[..., World],
) -> None:
    world = make_world()
    world.ramp()
    found = world.book.read("text2sql")
    assert found is not None
    told = events(world.lake, "text2sql")
    release = found[0].release
    assert release is not None
    again = Desk(world.service, world.task).abort("enough")
    # As after a kill between the commit of the events and the write of the document.
    world.book.tell_lake("text2sql", world.lake)
    kept = world.book.read("text2sql")
    assert kept is not None
    world.book.write("text2sql", msgspec.structs.replace(kept[0], events=again.events), kept[1])
    world.book.tell_lake("text2sql", world.lake)
    assert [row["event"] for row in events(world.lake, "text2sql")] == [
        *(row["event"] for row in told),
        "aborted",
    ]


def test_abort_and_rollback_move_the_routes_at_once(make_world: Callable[..., World]) -> None:
    world = make_world()
    world.ramp()
    assert world.route.challenger is not None
    desk = Desk(world.service, world.task, world.clock)
    desk.rollback("looks odd")
    assert world.route.challenger is None
    assert world.release.phase is Phase.ROLLED_BACK
    with pytest.raises(InputError, match="no release of text2sql is running"):
        desk.abort("again")
    with pytest.raises(InputError, match="no champion before version base"):
        desk.rollback("again")


def test_rollback_after_a_promotion_goes_back_to_the_champion_before(
    make_world: Callable[..., World],
) -> None:
    world = make_world()
    world.ramp()
    world.live(300, 8, FAIR, GOOD)
    Desk(world.service, world.task, world.clock).rollback("users complain")
    route = world.route
    assert (route.champion.version, route.holdback) == ("base", None)
    world.loop.tick()
    assert world.route == route
    assert world.release.phase is Phase.ROLLED_BACK
    assert events(world.lake, "text2sql")[-1]["reason"] == "users complain"


def test_a_route_changed_by_hand_is_put_right_and_a_task_without_document_left_alone(
    make_world: Callable[..., World],
) -> None:
    world = make_world()
    world.loop.tick()
    assert not world.service.routes_path.exists()
    world.ramp()
    route = world.route
    world.service.routes_path.unlink()
    world.loop.tick()
    assert world.route == route


def test_a_broken_lake_holds_the_ramp(make_world: Callable[..., World]) -> None:
    world = make_world(make_rules(min_candidates=0))
    world.ramp()
    world.lake.commit(lambda t: t.query("ALTER TABLE completions RENAME TO away"))
    world.clock.sleep(30)
    world.loop.tick()
    assert world.release.phase is Phase.RAMPING
    assert world.release.stage == 0
    world.lake.commit(lambda t: t.query("ALTER TABLE away RENAME TO completions"))
    world.loop.tick()
    assert world.release.stage == 1


def test_an_answer_that_took_long_counts_with_and_without_a_restart(
    make_world: Callable[..., World],
) -> None:
    world = make_world(make_rules(guardrails=("error_rate",)))
    world.ramp()
    asked_at = world.clock.now()
    for number in range(3):
        world.ask(2, {}, {})
        world.clock.sleep(400.0)
        world.loop.tick()
        if number == 1:
            # Asked first, answered after everybody else was counted.
            world.answer("slow", asked_at, status="timeout")
    counted = {
        row.unit: row.value
        for row in frozen(world.lake, world.release.release_id)
        if row.metric == "error_rate"
    }
    assert counted["slow"] == 0.0
    assert len(counted) == 7
    again = TaskLoop(world.service, world.task, world.clock)
    again.tick()
    again.close()
    rows = frozen(world.lake, world.release.release_id)
    assert {row.unit for row in rows if row.metric == "error_rate"} == set(counted)


@pytest.mark.parametrize("outage", [False, True])
def test_what_people_said_too_late_counts_for_nothing_however_long_nobody_counted(
    make_world: Callable[..., World], outage: bool
) -> None:
    """Units close after 5 s. The thumbs come after 2 and 30 s; one of each user's is enough."""
    world = make_world(make_rules(guardrails=(), min_dwell_seconds=600))
    world.ramp()
    began = world.clock.now()
    spoken = {"in time": (2.0,), "late": (30.0,), "both": (2.0, 30.0), "never": ()}
    for unit in spoken:
        said = {"completion_id": f"cmpl_{unit}", "response_text": "good", "messages": "[]"}
        world.answer(unit, began, **said)
    for second in (2.0, 5.1, 30.0, 60.0):
        world.clock.sleep(began + second - world.clock.now())
        for unit, seconds in spoken.items():
            if second in seconds:
                world.thumb(f"cmpl_{unit}")
        if not outage or second == 60.0:
            world.loop.tick()
    rows = frozen(world.lake, world.release.release_id)
    found = {row.unit: row.value for row in rows if row.metric == "thumbs"}
    assert found == {"in time": 1.0, "late": None, "both": 1.0, "never": None}


@pytest.mark.parametrize("takes", [2.0, 400.0])
def test_answers_that_are_not_done_when_they_are_counted_wait_longer_or_end_the_release(
    make_world: Callable[..., World], takes: float
) -> None:
    world = make_world()
    world.ramp()
    now = world.clock.now()
    for number in range(20):
        before = {"release": None, "stage": None, "latency_ms": 1000 * takes}
        world.answer(f"user-{number}", now - 60 + number, **before)

    def begun(seconds: float | str) -> Release:
        release = make_release(make_rules(answer_seconds=seconds), created_at=now)
        return baseline(
            world.service, world.task, world.lake, Traffic(champion=BASE, release=release)
        )

    short, enough, auto = begun(1.0), begun(1.25 * takes), begun("auto")
    assert short.answer_seconds == auto.answer_seconds == min(300, 3 * takes)
    assert unknown(enough) is None
    assert "answers count" not in opening(enough)[1]
    if takes < 300:
        assert unknown(short) is unknown(auto) is None
        assert opening(short)[1].startswith("first step, 5 %; answers count 6 s after")
    else:
        assert all(
            "one in twenty of the champion's" in (unknown(one) or "") for one in (short, auto)
        )

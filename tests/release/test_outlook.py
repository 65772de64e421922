"""What is said and refused before a release starts, and what is left while it ramps."""

import json
import math
import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from everlearn.lake.store import Transaction
from everlearn.task import Task
from serving.release.accounts import Accounts
from serving.release.observations import frozen
from serving.release.outlook import REMAINING, Outlook, Remaining, foresee, outlook, remaining
from serving.release.seen import DAY_SECONDS, Seen, Stretch, audible, busiest
from serving.release.states import Phase
from tests.release.world import World, history, make_release, make_rules

WEEK = 7 * DAY_SECONDS
KNOWN = Seen(means={"thumbs": 0.6, "good": 0.9})
SMALL = Stretch(DAY_SECONDS, 2000, 500, 15, WEEK, 14_000)
"""Of 500 users a day, of whom 15 give a thumb in time."""
LARGE = SMALL._replace(units=200_000, heard=6000)
Made = Callable[..., World]


def ahead(task: Task, stretch: Stretch, known: Seen = KNOWN, **overrides: Any) -> Outlook:
    release = make_release(task.release_rules, **{"alpha": 0.005, **overrides})
    return foresee(task, release, stretch, known)


def test_a_small_team_is_refused_with_what_would_decide(make_world: Made) -> None:
    found = ahead(make_world().task, SMALL)
    assert found.refused is not None
    assert "+20 points could not be proven within release.max_seconds 86400" in found.refused
    assert "15 a day come" in found.refused
    days = {each.effect: each.median for each in found.expected}
    assert (days[0.2] or 0) > 10 * DAY_SECONDS
    assert days[0.05] is None
    grader, longer, more = found.proposals
    assert grader.startswith("release.primary: good, which scores every answer")
    assert longer.startswith("release.max_seconds: ")
    assert more.endswith("times as much feedback")
    assert "--anyway" in found.refused


def test_what_is_proposed_decides(make_world: Made) -> None:
    """The longer time and the other metric, once followed, are not refused."""
    task = make_world().task
    refused = ahead(task, SMALL)
    seconds = float(refused.proposals[1].split()[1])
    longer = task.model_copy(
        update={"release": task.release.model_copy(update={"max_seconds": seconds})}
    )
    stretch = Stretch(WEEK, 14_000, 3500, 105, WEEK, 14_000)
    assert ahead(longer, stretch).refused is None
    other = task.model_copy(update={"release": task.release.model_copy(update={"primary": "good"})})
    assert ahead(other, SMALL, Seen(means={"good": 0.7})).refused is None


def test_much_traffic_is_told_in_days_and_not_refused(make_world: Made) -> None:
    task = make_world().task
    found = ahead(task, LARGE)
    assert found.refused is None
    text = "\n".join(found.lines(task.release_rules))
    assert "6000 a day" in text
    assert "+5 points: never: 5.6 points could be faked" in text
    assert "hours for 8 in 10)" in text
    told = json.loads(json.dumps(found.told()))
    assert told["heard_a_day"] == pytest.approx(6000)
    assert told["expected"][2]["days"] < 1 < told["expected"][1]["units"]


@pytest.mark.parametrize(
    "stretch",
    [
        Stretch(),
        SMALL._replace(history_seconds=3000.0),
        SMALL._replace(history_requests=200),
    ],
)
def test_little_history_refuses_nothing(make_world: Made, stretch: Stretch) -> None:
    task = make_world().task
    found = ahead(task, stretch, Seen())
    assert (found.known, found.refused) == (False, None)
    assert "nothing is known yet" in found.lines(task.release_rules)[0]


def test_a_primary_metric_that_nobody_emits_is_refused(make_world: Made) -> None:
    world = make_world()
    now = time.time()
    history(world.lake, "text2sql", [(now - 20 * n, f"user-{n}", False) for n in range(300)])
    release = make_release(world.task.release_rules, alpha=0.005)
    refused = outlook(world.lake, world.task, release).refused or ""
    assert "in 300 requests of the last 7 days nobody has given any" in refused
    assert "release.primary: good, which scores every answer" in refused
    asked = world.lake.read("SELECT min(completion_id) AS id FROM completions")["id"][0].as_py()
    world.clock.time = now
    world.thumb(asked)
    assert outlook(world.lake, world.task, release).refused is None


def test_shadow_pairs_are_proposed_where_they_decide(make_world: Made) -> None:
    better = {"name": "better", "type": "pairwise_model", "model": "m"}
    declared = make_world(make_rules(max_seconds=WEEK)).task.model_dump(mode="json")
    task = Task(**{**declared, "graders": [*declared["graders"], better]})
    known = KNOWN._replace(seconds=WEEK, requests=14_000, users=3500)
    proposed = ahead(task, SMALL, known).proposals
    assert any(each.startswith("release.shadow_pairs: {judge: better}") for each in proposed)
    few = known._replace(users=2)
    assert not any("shadow_pairs" in each for each in ahead(task, SMALL, few).proposals)


def test_an_ungated_release_is_neither_told_nor_refused(make_world: Made) -> None:
    task = make_world().task
    found = ahead(task, SMALL, alpha=0.0, ungated="to see")
    assert found.refused is None
    assert found.lines(task.release_rules) == []


def test_where_nothing_is_left_to_gain_it_says_so(make_world: Made) -> None:
    found = ahead(make_world().task, LARGE, Seen(means={"thumbs": 0.97}))
    assert found.refused is not None
    assert "even +3 points is never proven: 5.6 points could be faked" in found.refused
    assert "release.goal: not_worse" in found.refused


def test_not_worse_is_told_for_equal_versions(make_world: Made) -> None:
    task = make_world(make_rules(goal="not_worse", margin=0.05, wins="latency")).task
    lines = ahead(task, LARGE).lines(task.release_rules)
    assert lines[2].strip().startswith("equal: ")


def test_the_busiest_stretch_counts_a_user_once_and_thumbs_in_time(make_world: Made) -> None:
    world = make_world(make_rules(max_seconds=1000, unit_close_seconds=5))
    rules = world.task.release_rules
    assert busiest(world.lake, "text2sql", rules) == Stretch()
    now = time.time()
    # Second, user, thumbed: the oldest stretch is quiet, in the newest one thumb comes too late.
    asked: list[tuple[float, str, bool]] = [(0.0, "a", True)]
    asked += [(1500.0 + n, f"u{n}", True) for n in range(20)]
    asked += [(1530.0, "late", False), (1540.0, "late", True), (1550.0, "late", True)]
    asked += [(1600.0, "nobody heard", False)]
    history(world.lake, "text2sql", [(now - 2000 + at, unit, thumb) for at, unit, thumb in asked])
    found = busiest(world.lake, "text2sql", rules)
    assert (found.requests, found.units, found.heard) == (23, 21, 20)
    assert found.seconds == 1000
    assert found.history_seconds == pytest.approx(1550)
    assert found.history_requests == 24


def test_where_one_key_speaks_for_everybody_hardly_anything_is_heard_and_it_is_said(
    make_world: Made,
) -> None:
    world = make_world()
    asked = [(time.time() - 2000 + n, f"u{n}", True) for n in range(200)]
    rules = world.task.release_rules
    assert audible(world.lake, world.task, rules) == (1, 0)
    history(world.lake, "text2sql", asked)
    answers = world.lake.read("SELECT completion_id, unit FROM completions").to_pylist()
    # Half of the users by their own names, one with none; the others through one key.
    said = [
        {
            **{"feedback_id": f"fb_{n}", "completion_id": each["completion_id"]},
            **{"kind": "binary", "name": "thumbs", "value_bool": True, "author": "end_user"},
            **{"author_id": each["unit"] if n % 2 else "the key", "received_at": time.time()},
        }
        for n, each in enumerate(answers)
    ]
    said[1]["author_id"] = None
    world.lake.commit(lambda transaction: transaction.append("feedback", said))
    # One key: of 101 that are heard 2 % of either arm's half. Half of all would be 100 %.
    assert audible(world.lake, world.task, rules) == pytest.approx((101 / 200, 1.0))
    quiet = ahead(world.task, LARGE).lines(world.task.release_rules)
    half = ahead(world.task, LARGE._replace(audible=0.5))
    assert half.heard_a_day == ahead(world.task, LARGE).heard_a_day / 2
    lines = half.lines(world.task.release_rules)
    assert lines[1].startswith("(50% of what users say")
    assert "--may-speak-for users" in lines[1]
    assert not any("may-speak-for" in line for line in quiet)


def small_team(world: World, users: int, talks: int) -> None:
    """200 requests an hour for half a day, every one with a thumb; each user in so many talks."""
    now, dice = time.time(), random.Random(0)
    asked = [(now - 40_000 + 18 * n, f"u{dice.randrange(users)}", True) for n in range(2000)]
    history(world.lake, "text2sql", asked)
    rows = world.lake.read("SELECT completion_id, unit FROM completions").to_pylist()
    said = [
        {
            **{"feedback_id": f"fb_{n}", "completion_id": each["completion_id"]},
            **{"kind": "binary", "name": "thumbs", "value_bool": True, "author": "end_user"},
            **{"author_id": each["unit"], "received_at": now},
        }
        for n, each in enumerate(rows)
    ]

    def work(transaction: Transaction) -> None:
        transaction.query(
            f"UPDATE completions SET conversation_id = (epoch(received_at)::BIGINT % {talks})"
        )
        transaction.append("feedback", said)

    world.lake.commit(work)


def test_the_outlook_says_days_for_each_choice_of_the_unit(make_world: Made) -> None:
    world = make_world(make_rules(unit="user", epoch_seconds=0, response_bias=1))
    small_team(world, users=500, talks=40)
    release = make_release(world.task.release_rules, alpha=0.005)
    found = outlook(world.lake, world.task, release)
    days = [found.by_unit[unit] or math.inf for unit in ("user", "auto", "request")]
    assert days == sorted(days, reverse=True)
    assert days[0] > 1.5 * days[2]
    assert found.by_unit["user"] == found.expected[-1].median
    assert found.by_unit["auto"] == found.by_unit["conversation"]
    assert " by release.unit (now user): user " in found.lines(release.parsed_rules)[-1]
    assert json.loads(json.dumps(found.told()))["by_unit"]["request"] == days[2]


@pytest.mark.parametrize(("users", "share"), [(20, True), (150, False)])
def test_where_the_unit_cannot_decide_another_is_proposed_and_does(
    make_world: Made, users: int, share: bool
) -> None:
    """Of 20 users each has a twentieth of the words: only if one may say so much."""
    rules = {"unit": "user", "epoch_seconds": 0, "response_bias": 1, "max_seconds": 40_000}
    world = make_world(make_rules(**rules))
    small_team(world, users=users, talks=1)
    task, release = world.task, make_release(world.task.release_rules, alpha=0.005)
    refused = outlook(world.lake, task, release)
    assert refused.refused is not None
    first = refused.proposals[0]
    assert first.startswith("release.unit: request, if requests know nothing of each other")
    assert ("; with trust.max_share_per_rater: 0." in first) is share
    changed = task.release.model_copy(update={"unit": "request"})
    trust = task.trust
    if share:
        asked = float(first.split("max_share_per_rater: ")[1].split(",")[0])
        trust = trust.model_copy(update={"max_share_per_rater": asked})
    followed = task.model_copy(update={"release": changed, "trust": trust})
    again = outlook(world.lake, followed, make_release(followed.release_rules, alpha=0.005))
    assert again.refused is None
    assert again.audible > 0.9


def test_what_is_left_is_told_of_the_units_that_decide(make_world: Made) -> None:
    world = make_world(make_rules(steps=(50, 100)))
    world.ramp()
    # Everybody is content with both: no chance can end it.
    world.live(20, 3, {}, {})
    release = world.release
    rows = world.lake.read(REMAINING, [release.release_id]).to_pylist()
    counts = Accounts(release.parsed_rules, frozen(world.lake, release.release_id)).evidence()
    thumbs = [row for row in rows if row["metric"] == "thumbs"]
    assert sum(row["candidates"] for row in thumbs) == counts.primary.candidates > 0
    assert sum(row["champions"] + row["candidates"] for row in thumbs) == counts.primary.units
    found = remaining(release, rows, world.clock.now())
    assert found is not None
    assert (found.effect, found.units) == (0.0, None)
    ended = make_release(phase=Phase.PROMOTED)
    assert remaining(ended, rows, world.clock.now()) is None
    assert remaining(release, [], world.clock.now()) is None


def so_far(metric: str, each: int, candidate: float, champion: float) -> dict[str, Any]:
    """So many units of each arm, half and half, with these means."""
    counts = {"candidates": each, "champions": each, "candidate": candidate, "champion": champion}
    return {"metric": metric, "propensity": 0.5, **counts}


def test_what_is_left_is_the_longest_way_of_all_that_must_be_shown() -> None:
    """Thumbs are nearly there; that every answer's grade is not worse wants hundreds."""
    release = make_release(make_rules(co_primary="good", response_bias=1))
    now = release.ramp_since + 3600
    won, graded = so_far("thumbs", 60, 0.95, 0.6), so_far("good", 60, 0.9, 0.9)
    found = remaining(release, [won, graded], now)
    assert found is not None
    assert found.metric == "good"
    assert found.units is not None
    assert found.units > 400
    assert f"about {found.units} more units of good, " in found.line()
    assert found.effect == pytest.approx(0.35)
    # Graded long ago, thumbs are what is left; graded as worse than may be, nothing helps.
    done = remaining(release, [so_far("thumbs", 60, 0.8, 0.6), so_far("good", 9000, 0.9, 0.9)], now)
    assert done is not None
    assert done.metric == "thumbs"
    lost = remaining(release, [won, so_far("good", 60, 0.8, 0.9)], now)
    assert lost is not None
    assert (lost.metric, lost.units) == ("good", None)
    assert "by what good looks like" in lost.line()
    assert remaining(release, [won], now) is None


def test_an_effect_that_is_not_to_be_proven_is_said_with_the_end() -> None:
    rows = [so_far("thumbs", 50, 0.5, 0.6)]
    release = make_release(make_rules(max_seconds=7200, co_primary=None))
    found = remaining(release, rows, release.ramp_since + 3600)
    assert found is not None
    assert found.effect == pytest.approx(-0.1)
    assert found == Remaining(found.effect, "thumbs", None, None, 3600 / DAY_SECONDS)
    end = "not to be promoted, by what thumbs looks like; max_seconds ends it in 1.0 hours"
    assert found.line().endswith(end)


def test_more_units_of_the_same_take_less_of_what_is_left() -> None:
    release = make_release(make_rules(co_primary=None))
    left: list[int] = []
    found: Remaining | None = None
    for each in (20, 40, 80):
        rows = [so_far("thumbs", each, 0.7, 0.6)]
        found = remaining(release, rows, release.ramp_since + each)
        assert found is not None
        left.append(found.units or 0)
    assert left == sorted(left, reverse=True)
    assert left[0] - left[1] == pytest.approx(40, abs=2)
    assert found is not None
    assert f"about {left[-1]} more units of thumbs, " in found.line()

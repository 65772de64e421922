"""A task's own rules tried out: what is supposed, what is seen, what is said of it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.release import SCENARIOS, kept, play
from everlearn.cli.release import command
from serving.release.rehearse import Rates
from serving.release.seen import DAY_SECONDS, Seen, seen
from serving.release.states import Phase
from serving.release.trial import Truth, told, trial
from tests.builders import make_service
from tests.release.world import World, make_rules

QUICK = (
    "identical, base 0.6",
    "identical, harm, base 0.95",
    "identical, satisfied answer 1.2 times as often",
    "identical, 1.1 times and the dissatisfied 0.9 times",
    "identical, 20 % of the requests fail on both",
    "identical, 20 users who return, by conversation of 4",
    "identical, 100 users who return, for the whole release",
    "identical, 100 users who return, each day",
    "identical, 100 users who return, by request",
    "10 points worse",
)


@pytest.mark.parametrize("name", QUICK)
def test_a_promise_holds_in_a_small_form_of_the_benchmark(name: str) -> None:
    scenario = SCENARIOS[name]._replace(most_units=2000)
    if scenario.pace.epoch_seconds:
        hours = scenario.pace._replace(epoch_seconds=scenario.pace.epoch_seconds / 8)
        scenario = scenario._replace(pace=hours)
    assert kept(scenario, play(scenario, runs=150), slack=0.035)


def test_what_is_not_asked_for_is_as_seen_and_else_as_usual(
    make_world: Callable[..., World],
) -> None:
    task = make_world(make_rules(max_seconds=5000)).task
    known = Seen(
        seconds=DAY_SECONDS, requests=500, means={"thumbs": 0.7, "good": 0.9},
        heard={"thumbs": 0.1, "good": 1.0},
    )  # fmt: skip
    found = trial(task, Truth(effect=0.1), known, 0.05)
    assert found.rules.beside == "good"
    assert found.rates["thumbs"] == pytest.approx((0.7, 0.8))
    assert found.rates["good"] == Rates(0.9, 0.9)
    assert found.rates["error_rate"] == Rates(0.99, 0.99)
    assert found.people.answering == 0.1
    assert found.pace.units_per_second == pytest.approx(500 / DAY_SECONDS)
    usual = trial(task, Truth(base=0.5, judge_agreement=0.8, traffic=100), Seen(), 0.05)
    assert usual.people.answering == 0.03
    assert usual.pace.units_per_second == pytest.approx(100 / DAY_SECONDS)
    judged = trial(task, Truth(effect=0.1, base=0.5, judge_agreement=0.8), Seen(), 0.05)
    assert judged.rates["good"] == pytest.approx((0.5, 0.56))


@pytest.mark.parametrize(
    ("unit", "expected"), [("user", 0.0), ("auto", 0.1), ("conversation", 0.6), ("request", 1.0)]
)
def test_who_returns_is_drawn_as_often_as_the_rules_and_the_traffic_say(
    make_world: Callable[..., World], unit: str, expected: float
) -> None:
    """Half of the requests are in conversations of five."""
    task = make_world(make_rules(unit=unit, epoch_seconds=3600)).task
    known = Seen(seconds=DAY_SECONDS, requests=1000, conversations=100, unnamed=500)
    found = trial(task, Truth(users=20), known, 0.05)
    assert found.people.redrawn == pytest.approx(expected)
    assert (found.people.users, found.pace.epoch_seconds) == (20, 3600)
    if unit in ("auto", "conversation"):
        assert trial(task, Truth(conversation=4), known, 0.05).people.redrawn == 0.25


def test_twenty_users_decide_by_request_what_they_never_do_by_user() -> None:
    names = ("for the whole release", "by request")
    cells = (f"20 points better, 20 users who return, {name}" for name in names)
    never, soon = (play(SCENARIOS[name]._replace(most_units=4000), runs=40) for name in cells)
    assert never.share(Phase.PROMOTED) == 0
    assert soon.share(Phase.PROMOTED) >= 0.85


def test_worse_answers_are_counted(make_world: Callable[..., World]) -> None:
    task = make_world(make_rules(max_seconds=5000)).task
    asked = trial(task, Truth(effect=-0.3, traffic=200_000, answering=0.5), Seen(), 0.05)
    result = told(asked, asked.run(30))
    assert result["shares"]["promoted"] == 0
    assert sum(result["shares"].values()) == pytest.approx(1)
    assert 0 < result["worse_answers"] <= 0.3 * 2 * result["answered_by_the_candidate"]["p80"]
    assert result["days"]["median"] < 5000 / DAY_SECONDS


def test_what_was_seen_is_counted_by_request_user_and_day(make_world: Callable[..., World]) -> None:
    world = make_world()
    assert seen(world.lake, "text2sql", world.task.release_rules) == Seen()
    world.ramp()
    for _ in range(2):
        world.ask(50, {"good": 0.9}, {"good": 0.9})
        world.clock.sleep(100)
    world.loop.tick()
    found = seen(world.lake, "text2sql", world.task.release_rules)
    assert (found.requests, found.users, found.conversations) == (100, 100, 0)
    assert found.unnamed == 100
    assert found.seconds == pytest.approx(100)
    assert found.a_day == pytest.approx(DAY_SECONDS)
    assert found.heard["thumbs"] > 0.8
    assert 0.8 < found.means["good"] < 1
    assert found.means["error_rate"] == 1.0


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_verb_says_it_in_json_and_draws_it(tmp_path: Path, suffix: str) -> None:
    make_service(tmp_path)
    (tmp_path / "tasks" / "t.yaml").write_text(
        "{task: t, base_model: b, upstream: local, graders: [{name: thumbs, type: feedback}]}"
    )
    picture = tmp_path / f"picture.{suffix}"
    words = ["simulate", "t", "--effect", "0.4", "--runs", "20", "--answering", "0.5", "--json"]
    more = ["--traffic", "100000", "--plot", str(picture), "--config"]
    done = CliRunner().invoke(command, [*words, *more, str(tmp_path / "everlearn.yaml")])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["runs"] == 20
    assert result["shares"]["promoted"] >= 0.8
    assert result["level"] == 0.005
    assert result["days_promoted"]["median"] < 1
    assert picture.stat().st_size > 5000


def test_of_several_challengers_the_verb_says_which_was_promoted(tmp_path: Path) -> None:
    make_service(tmp_path)
    (tmp_path / "tasks" / "t.yaml").write_text(
        "{task: t, base_model: b, upstream: local, graders: [{name: thumbs, type: feedback}]}"
    )
    words = ["simulate", "t", "--challengers", "2", "--effect", "0.4", "--runs", "20", "--config"]
    words += [str(tmp_path / "everlearn.yaml"), "--traffic", "100000", "--answering", "0.5"]
    done = CliRunner().invoke(command, [*words, "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert (result["runs"], result["challengers"], result["level"]) == (20, 2, 0.005)
    assert result["shares"]["promoted_the_first"] >= 0.8
    assert result["shares"]["promoted_no_better"] <= 0.1
    told = CliRunner().invoke(command, words).stdout
    assert told.startswith("20 releases of 2 challengers at level 0.005, 0.0025 each: promoted ")
    refused = CliRunner().invoke(command, [*words, "--users", "50"])
    assert "--challengers: users: tried of one challenger only" in str(refused.exception)


def test_a_picture_that_cannot_be_written_so_is_refused(tmp_path: Path) -> None:
    make_service(tmp_path)
    (tmp_path / "tasks" / "t.yaml").write_text(
        "{task: t, base_model: b, upstream: local, graders: [{name: thumbs, type: feedback}]}"
    )
    words = ["simulate", "t", "--runs", "1", "--traffic", "100000", "--plot", "x.docx"]
    done = CliRunner().invoke(command, [*words, "--config", str(tmp_path / "everlearn.yaml")])
    assert "must end with one of .png, .svg" in str(done.exception)

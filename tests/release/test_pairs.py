"""Shadow pairs: what the bets on a judge's comparisons promise, and what the verb says of them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from everlearn.cli.release import command
from serving.release import pairs
from serving.release.rehearse import Ends, Rates
from serving.release.rehearse_pairs import Shadow, pairs_a_day, rehearse_pairs
from serving.release.states import Phase
from tests.release.world import World, make_rules

WEEK = 7 * 86_400.0


def compared(effect: float, agreement: float, *, alpha: float, runs: int) -> Ends:
    rules = make_rules(max_seconds=WEEK)
    shadow = Shadow(Rates(0.6, 0.6 + effect), agreement)
    return rehearse_pairs(rules, shadow, alpha=alpha, runs=runs, seed=3)


@pytest.mark.parametrize("agreement", [0.8, 1.0])
def test_an_identical_version_is_seldom_taken_for_better(agreement: float) -> None:
    found = compared(0.0, agreement, alpha=0.05, runs=100)
    assert found.share(Phase.PROMOTED) <= 0.05 + 2 * 0.022


def test_twenty_points_are_found_within_a_day_at_the_level_of_a_first_release() -> None:
    found = compared(0.2, 0.8, alpha=0.005, runs=40)
    assert found.share(Phase.PROMOTED) >= 0.95
    assert float(np.median(found.seconds)) <= 86_400


def test_a_worse_version_is_stopped() -> None:
    assert compared(-0.2, 0.9, alpha=0.05, runs=40).share(Phase.STOPPED) >= 0.95


def test_a_bet_on_a_pair_is_fair_and_a_tie_costs_nothing() -> None:
    account = pairs.account(make_rules())
    for value in (1.0, 0.0, 1.0, 0.5):
        pairs.add(account, value)
    logs = account._score._logs[0, :2].copy()
    pairs.add(account, 0.5)
    assert np.allclose(account._score._logs[0, :2], logs)
    factors = []
    for value in (0.0, 1.0):
        one = pairs.account(make_rules())
        pairs.add(one, value)
        factors.append(np.exp(one._score._logs[0, :2]))
    assert np.allclose(np.mean(factors, axis=0), 1.0)


def test_a_person_makes_one_pair_in_an_epoch() -> None:
    rules = make_rules(epoch_seconds=86_400)
    assert pairs_a_day(rules, 2000, None) == 2000
    assert pairs_a_day(rules, 2000, 100) == pytest.approx(100, abs=0.1)
    assert pairs_a_day(rules, 10, 1000) == pytest.approx(10, abs=0.1)


def test_the_verb_says_how_many_pairs_and_days_it_takes(make_world: Callable[..., World]) -> None:
    world = make_world(make_rules(max_seconds=WEEK))
    config = str(Path(world.service.root) / "everlearn.yaml")
    arguments = ["simulate", "text2sql", "--config", config, "--shadow-pairs", "--effect", "0.3"]
    arguments += [
        "--runs",
        "20",
        "--judge-agreement",
        "0.9",
        "--traffic",
        "1000",
        "--level",
        "0.05",
    ]
    found = CliRunner().invoke(command, [*arguments, "--json"])
    assert found.exit_code == 0, found.output
    told = json.loads(found.output)
    assert told["shares"]["promoted"] == 1.0
    assert told["days"]["median"] == pytest.approx(told["pairs"]["median"] / 1000, abs=0.001)
    plain = CliRunner().invoke(command, arguments)
    assert plain.output.startswith("20 comparisons in the shadow at level 0.05: promoted 100.0%")

"""Shadow pairs: what the bets on a judge's comparisons promise, and what the verb says of them."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from everlearn.cli.release import command
from everlearn.rules import ShadowPairs
from everlearn.task import Task
from serving.release import pairs
from serving.release.accounts import pair_account
from serving.release.ahead import pairs_needed
from serving.release.decide import Evidence, MetricEvidence, decide
from serving.release.pairs_ahead import InShadow, foresee, standing
from serving.release.rehearse import Ends, Rates
from serving.release.rehearse_pairs import Shadow, rehearse_pairs
from serving.release.routing import render
from serving.release.seen import Seen, pairs_a_day
from serving.release.states import Phase, Traffic
from tests.release.world import BASE, World, make_release, make_rules

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
    account = pair_account(make_rules())
    for value in (1.0, 0.0, 1.0, 0.5):
        pairs.add(account, value)
    logs = account._score._logs[0, :2].copy()
    pairs.add(account, 0.5)
    assert np.allclose(account._score._logs[0, :2], logs)
    factors = []
    for value in (0.0, 1.0):
        one = pair_account(make_rules())
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


NOW = 1_800_000_000.0
PAIRED_RULES = make_rules(max_seconds=1000, shadow_pairs={"judge": "better"})


def where(
    seconds: float, problem: pairs.Problem | None = None, **evidence: Any
) -> tuple[Phase, str]:
    release = make_release(PAIRED_RULES, phase=Phase.PAIRING, pairs_since=NOW)
    found = MetricEvidence("shadow_pairs", units=40, mean_candidate=0.6, **evidence)
    decided = pairs.decide(release, found, problem, NOW + seconds)
    return decided.phase, decided.reason


def test_a_comparison_goes_on_until_it_is_won_futile_or_over() -> None:
    told = "40 shadow pairs, mean 0.600 (0.5 is as good), promote e-value 19 of 20"
    assert where(999, promote=math.log(19)) == (Phase.PAIRING, told)
    assert where(0, promote=math.log(20.1))[0] is Phase.RAMPING
    phase, reason = where(0, futility=math.log(10.1))
    assert (phase, "worse" in reason) == (Phase.STOPPED, False)
    assert "it is worse" in where(0, futility=math.log(10.1), harm_now=math.log(5))[1]
    assert where(1000)[0] is Phase.INCONCLUSIVE


def test_what_was_judged_decides_unless_the_judge_has_lost_its_vote() -> None:
    away, lost = pairs.Problem("away"), pairs.Problem("lost", trusted=False)
    won = {"promote": math.log(21)}
    assert where(10, away, **won)[0] is Phase.RAMPING
    assert where(10, lost, **won)[0] is Phase.PAIRING
    assert where(10, lost, futility=9.0)[0] is Phase.PAIRING
    for problem in (away, lost):
        assert where(10, problem)[1].startswith(f"holding: {problem.reason}")
        phase, reason = where(1000, problem)
        assert phase is Phase.ERROR
        assert reason.endswith(f"holding: {problem.reason}")
    assert where(1000, away, **won)[0] is Phase.RAMPING


def ramp(seconds: float, *guardrails: MetricEvidence, **release: Any) -> tuple[Phase, int, str]:
    """Of a release whose pairs were won."""
    fields = {"paired": "better in the shadow", "alpha": 0.001, **release}
    primary = MetricEvidence("thumbs", units=9, candidates=5, futility=9.0)
    evidence = Evidence(primary, guardrails)
    rules = PAIRED_RULES
    found = decide(make_release(rules, **fields), evidence, rules, NOW + seconds)
    return found.phase, found.stage, found.reason


def test_the_ramp_after_the_pairs_looks_for_harm_at_every_step() -> None:
    good = MetricEvidence("good", units=9, candidates=5)
    assert ramp(9, good)[:2] == (Phase.RAMPING, 0)
    assert ramp(10, good)[:2] == (Phase.RAMPING, 1)
    assert ramp(10, good, stage=2)[0] is Phase.PROMOTED
    assert ramp(9, good, stage=2)[0] is Phase.RAMPING
    assert ramp(10, good._replace(harm=6.0), stage=2)[0] is Phase.ROLLED_BACK
    adverse = good._replace(harm_now=math.log(3.1))
    assert ramp(10, adverse, stage=2)[::2] == (
        Phase.RAMPING,
        "won, but no step while the harm e-value 3.1 > 3 on good after 9 units, 5 on the "
        "candidate (none against none)",
    )
    few = good._replace(candidates=4)
    assert "4 closed candidate units < min_units 5" in ramp(10, few, stage=2)[2]
    assert ramp(10, good, paired=None)[0] is Phase.STOPPED, "no gain is asked for after the pairs"


def test_in_the_shadow_the_candidate_is_routed_to_unseen_and_nobody_is_drawn() -> None:
    release = make_release(PAIRED_RULES, phase=Phase.PAIRING)
    route = render(Traffic(champion=BASE, release=release))
    assert route.challenger == release.candidate
    assert (route.challenger_share, route.shadow_share, route.stage) == (0.0, 1.0, None)
    share = PAIRED_RULES.model_copy(update={"shadow_pairs": ShadowPairs(judge="b", share=0.25)})
    release = make_release(share, phase=Phase.PAIRING)
    assert render(Traffic(champion=BASE, release=release)).shadow_share == 0.25
    ended = make_release(PAIRED_RULES, phase=Phase.STOPPED)
    assert render(Traffic(champion=BASE, release=ended)).challenger is None


@pytest.mark.parametrize("agreement", [0.8, 0.9])
def test_what_is_foretold_is_within_a_quarter_of_what_is_made_up(agreement: float) -> None:
    found = compared(0.15, agreement, alpha=0.05, runs=60)
    foretold = pairs_needed(0.6, 0.15, agreement, 0.05)
    assert foretold == pytest.approx(float(np.median(found.units)), rel=0.25)


def test_before_the_start_it_says_pairs_and_days_and_refuses_what_cannot_be_found() -> None:
    known = Seen(seconds=7 * 86_400, requests=14_000, users=700, means={"thumbs": 0.6})
    week = PAIRED_RULES.model_copy(update={"max_seconds": WEEK})
    ahead = foresee(make_release(week, alpha=0.005), known)
    assert ahead.refused is None
    assert ahead.pairs_a_day == pytest.approx(700, rel=0.1)
    told = {each.effect: each for each in ahead.expected}
    assert told[0.1].pairs == pytest.approx(940, rel=0.25), "as in the simulations of the docs"
    assert told[0.1].weak > 1.5 * told[0.1].median
    lines = "\n".join(ahead.lines(week))
    assert "compared by better, here taken to be right in 90% (80%)" in lines
    hour = PAIRED_RULES.model_copy(update={"max_seconds": 3600.0})
    refused = foresee(make_release(hour, alpha=0.005), known).refused or ""
    assert "even +20 points could not be found by shadow pairs" in refused
    assert "release.max_seconds: " in refused
    assert not foresee(make_release(week), Seen()).known


def test_while_it_goes_on_it_says_how_many_more() -> None:
    day = PAIRED_RULES.model_copy(update={"max_seconds": 86_400.0})
    release = make_release(day, phase=Phase.PAIRING, pairs_since=NOW, alpha=0.005)

    def after(values: list[float]) -> InShadow:
        found = standing(release, [{"value": value} for value in values], NOW + 3600)
        assert found is not None
        return found

    good = after([1.0, 0.5, 0.0, 1.0] * 25)
    assert good.more is not None
    assert good.days == pytest.approx(good.more / 100 / 24)
    assert f"about {good.more} more" in good.line()
    assert "not to be won by what it looks like; max_seconds" in after([0.0, 1.0] * 50).line()
    assert after([1.0]).more is None
    ended = msgspec.structs.replace(release, phase=Phase.RAMPING)
    over = standing(ended, [{"value": 1.0}], NOW)
    assert over is not None
    assert over.line() == over.told
    assert standing(make_release(day), [], NOW) is None


def test_a_task_whose_shadow_judge_compares_nothing_is_refused() -> None:
    feedback = {"name": "thumbs", "type": "feedback"}
    better = {"name": "better", "type": "pairwise_model", "model": "m"}
    about: dict[str, Any] = {"task": "t", "base_model": "b", "upstream": "local"}

    def declared(**release: Any) -> Task:
        rules = {"shadow_pairs": {"judge": "better"}, **release}
        return Task(**about, graders=(feedback, better), release=rules)

    assert declared().release.shadow_pairs == ShadowPairs(judge="better")
    with pytest.raises(ValidationError, match="'thumbs' is no pairwise_model grader"):
        declared(shadow_pairs={"judge": "thumbs"})
    with pytest.raises(ValidationError, match="shadow_pairs asks who is better"):
        declared(goal="not_worse", margin=0.03, wins="latency")

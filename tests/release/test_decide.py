"""The decision as a pure function, and the properties that must hold whatever the evidence."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn.rules import ReleaseRules
from serving.release.accounts import Account, others, questions
from serving.release.analysis import Observation, Question
from serving.release.decide import Evidence, MetricEvidence, decide, harm_levels, last_stage
from serving.release.states import ENDED, Phase, Release
from tests.release.world import make_release, make_rules

NOW = 1_800_000_000.0
RULES = make_rules(min_dwell_seconds=60, max_seconds=1000, guardrails=("error_rate", "good"))


def make_metric(name: str = "thumbs", **overrides: Any) -> MetricEvidence:
    fields = {"units": 40, "candidates": 6, "mean_candidate": 0.5, "mean_champion": 0.6}
    return MetricEvidence(name, **{**fields, **overrides})


def ask(
    seconds: float,
    primary: MetricEvidence,
    *guardrails: MetricEvidence,
    rules: ReleaseRules = RULES,
    problem: str | None = None,
    **release: Any,
) -> tuple[Phase, int, str]:
    evidence = Evidence(primary, guardrails, problem)
    found = decide(make_release(rules, **release), evidence, rules, NOW + seconds)
    return found.phase, found.stage, found.reason


def test_it_stays_at_a_step_until_the_dwell_is_over() -> None:
    phase, stage, reason = ask(59, make_metric())
    assert (phase, stage, reason) == (Phase.RAMPING, 0, "dwell 59 s < min_dwell_seconds 60")


def test_it_takes_the_next_step_after_the_dwell_when_there_is_no_harm() -> None:
    phase, stage, reason = ask(60, make_metric(harm=0.5), make_metric("good", harm=0.7))
    assert (phase, stage) == (Phase.RAMPING, 1)
    assert reason == (
        "no harm after 60 s >= min_dwell_seconds 60: largest harm e-value 2.014 on good "
        "after 40 units, 6 on the candidate (0.500 against 0.600)"
    )


def test_a_candidate_that_nobody_has_met_gets_no_more_traffic() -> None:
    unseen = make_metric(candidates=0)
    phase, stage, reason = ask(600, unseen, unseen)
    assert (phase, stage) == (Phase.RAMPING, 0)
    assert reason == "0 closed candidate units < min_candidates 1"
    assert ask(600, unseen, make_metric("good", candidates=1))[1] == 1


def test_the_step_to_all_traffic_is_not_taken_by_time() -> None:
    last = last_stage(RULES)
    phase, stage, reason = ask(900, make_metric(), stage=last)
    assert (phase, stage) == (Phase.RAMPING, last)
    assert reason.startswith("undecided: thumbs after 40 units")


def test_harm_on_the_primary_metric_rolls_back() -> None:
    phase, _, reason = ask(0, make_metric(harm=math.log(10.1)))
    assert phase is Phase.ROLLED_BACK
    assert reason.startswith("harm e-value 10.1 >= 10 on thumbs after 40 units")


def test_primary_and_guardrails_share_the_level_of_harm() -> None:
    """Half for the primary metric, a quarter for each of two guardrails: 0.10 in all."""
    low, high = make_metric("good", harm=math.log(39)), make_metric("good", harm=math.log(41))
    assert ask(0, make_metric(harm=math.log(19)), low, make_metric("a"))[0] is Phase.RAMPING
    phase, _, reason = ask(0, make_metric(), high, make_metric("a"))
    assert (phase, reason[:34]) == (Phase.ROLLED_BACK, "harm e-value 41 >= 40 on good afte")
    phase, _, reason = ask(0, make_metric(harm=math.log(21)), low, make_metric("a"))
    assert (phase, reason[:36]) == (Phase.ROLLED_BACK, "harm e-value 21 >= 20 on thumbs afte")
    assert harm_levels(RULES, 2) == pytest.approx((0.05, 0.025))
    assert harm_levels(RULES, 0) == pytest.approx((0.10, 0.0))


def test_harm_outweighs_a_promotion_and_futility() -> None:
    assert ask(0, make_metric(harm=9, promote=9, futility=9))[0] is Phase.ROLLED_BACK


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_promotion_goes_straight_from_any_step_to_all_traffic(stage: int) -> None:
    phase, _, reason = ask(60, make_metric(promote=math.log(20.5)), stage=stage)
    assert phase is Phase.PROMOTED
    assert reason.startswith("promote e-value 20.5 >= 20 on thumbs")


def test_the_level_of_promotion_is_that_of_the_release() -> None:
    assert ask(60, make_metric(promote=math.log(199)), alpha=0.005)[0] is Phase.RAMPING
    assert ask(60, make_metric(promote=math.log(201)), alpha=0.005)[0] is Phase.PROMOTED


def test_no_promotion_before_the_dwell_of_the_step_is_over() -> None:
    won = make_metric(promote=math.log(1e6))
    phase, stage, reason = ask(59, won, make_metric("good"))
    assert (phase, stage, reason) == (Phase.RAMPING, 0, "dwell 59 s < min_dwell_seconds 60")
    assert ask(60, won, make_metric("good"))[0] is Phase.PROMOTED


def test_no_promotion_on_stale_evidence() -> None:
    won = make_metric(promote=math.log(1e6))
    phase, _, reason = ask(600, won, make_metric("good"), problem="good: judge away")
    assert (phase, reason) == (Phase.RAMPING, "holding: good: judge away")
    phase, _, reason = ask(1000, won, make_metric("good"), problem="good: judge away")
    assert phase is Phase.ERROR
    assert reason.endswith("; won, but holding: good: judge away")
    phase, _, reason = ask(1000, make_metric(), make_metric("good"), problem="good: judge away")
    assert phase is Phase.ERROR, "it says nothing against the version that nobody could be asked"
    assert reason.endswith("; holding: good: judge away")


@pytest.mark.parametrize("seen", [0, 4])
def test_no_promotion_before_every_guardrail_was_seen(seen: int) -> None:
    won = make_metric(promote=math.log(1e6))
    unseen = make_metric("good", candidates=seen)
    phase, stage, reason = ask(600, won, make_metric("a"), unseen, stage=2)
    assert (phase, stage) == (Phase.RAMPING, 2)
    assert reason == (f"won, but guardrail good has {seen} closed candidate units < min_units 5")
    # The ramp goes on meanwhile, so that the guardrail gets its units.
    assert ask(600, won, make_metric("a"), unseen)[1] == 1
    assert ask(600, won, make_metric("a"), make_metric("good", candidates=5))[0] is Phase.PROMOTED


def test_a_guardrail_that_stays_blind_ends_as_an_error_with_its_name() -> None:
    blind = make_metric("good", candidates=0)
    for seconds, candidates in ((1000, 5), (60, 50)):
        phase, _, reason = ask(seconds, make_metric(candidates=candidates), make_metric("a"), blind)
        assert phase is Phase.ERROR
        assert reason == (
            f"guardrail good is blind: it has seen no unit of the candidate, thumbs {candidates}"
        )
    # Nobody came: that is no guardrail's fault.
    assert ask(1000, make_metric(candidates=4), blind)[0] is Phase.INCONCLUSIVE


def test_no_step_is_taken_on_adverse_evidence_and_it_is_taken_when_that_has_passed() -> None:
    """What the only unit of the candidate, a bad one, leaves: it holds until others came."""
    account = Account("thumbs", questions(RULES))
    account.add(Observation(True, 0.01, 0.0))
    phase, stage, reason = ask(600, account.evidence(), make_metric("good"))
    assert (phase, stage) == (Phase.RAMPING, 0)
    assert reason.startswith("no step while the harm e-value 1.373 > 1.2")
    for _ in range(3):
        account.add(Observation(True, 0.01, 1.0))
    assert ask(600, account.evidence(), make_metric("good"))[1] == 1
    for e_value, stage in ((2.9, 1), (3.1, 0)):
        metric = make_metric("good", harm_now=math.log(e_value))
        assert ask(600, make_metric(), metric)[1] == stage


def test_a_futile_end_is_named_harm_where_the_evidence_says_so() -> None:
    futile = math.log(12)
    phase, _, reason = ask(1, make_metric(futility=futile, harm_now=math.log(5.5)))
    assert phase is Phase.ROLLED_BACK
    assert reason.endswith("is ruled out, and it is worse: harm e-value 5.5 >= 5")
    phase, _, reason = ask(1, make_metric(futility=futile, harm=math.log(9), harm_now=0.0))
    assert (phase, reason[-11:]) == (Phase.STOPPED, "s ruled out")


NOT_WORSE = make_rules(
    min_dwell_seconds=60, max_seconds=1000, goal="not_worse", margin=0.03, wins="cost",
    guardrails=("error_rate",),
)  # fmt: skip


def test_not_worse_is_promoted_only_when_what_it_wins_is_proven_too() -> None:
    kept, errors = make_metric(promote=math.log(21)), make_metric("error_rate")
    for won, expected in ((19, Phase.RAMPING), (21, Phase.PROMOTED)):
        cost = make_metric("cost", promote=math.log(won))
        phase, _, reason = ask(60, kept, errors, cost, rules=NOT_WORSE)
        assert phase is expected
    assert "a loss of 0.03 is ruled out: promote e-value 21 >= 20 on thumbs" in reason
    assert "; cost is won: promote e-value 21 >= 20 on cost" in reason
    cheap = make_metric("cost", promote=99)
    assert ask(60, make_metric(promote=1), errors, cheap, rules=NOT_WORSE)[0] is Phase.RAMPING
    stopped = ask(60, make_metric(futility=math.log(12)), errors, cheap, rules=NOT_WORSE)
    assert stopped[0] is Phase.STOPPED
    assert stopped[2].endswith("a loss of less than 0.015, half the margin, is ruled out")


WITH_CO = make_rules(
    min_dwell_seconds=60, max_seconds=1000, co_primary="good", guardrails=("error_rate",)
)  # fmt: skip


def test_raters_promote_only_with_a_metric_of_every_answer_beside_them() -> None:
    assert WITH_CO.metrics == ("error_rate", "good")
    thumbs, errors = make_metric(promote=math.log(21)), make_metric("error_rate")
    for proven, expected in ((19, Phase.RAMPING), (21, Phase.PROMOTED)):
        good = make_metric("good", promote=math.log(proven))
        phase, _, reason = ask(60, thumbs, errors, good, rules=WITH_CO, stage=2)
        assert phase is expected
        if expected is Phase.RAMPING:
            assert reason.startswith("thumbs has won, but not yet good: promote e-value 19 < 20")
    assert "; good is not worse: promote e-value 21 >= 20 on good" in reason
    unproven = make_metric("good", promote=0.0)
    phase, _, reason = ask(1000, thumbs, errors, unproven, rules=WITH_CO)
    assert phase is Phase.INCONCLUSIVE
    assert "; thumbs has won, but not yet good" in reason
    assert ask(60, thumbs, errors, rules=WITH_CO)[0] is Phase.RAMPING
    assert ask(60, make_metric(), errors, make_metric("good", promote=9), rules=WITH_CO)[0] is (
        Phase.RAMPING
    )


def test_what_answering_alone_could_fake_is_asked_for_on_top() -> None:
    """1.25 times the odds is 5.6 points at most: at an even rate, less everywhere else."""
    harm, promote, futility = questions(WITH_CO)
    assert (harm, promote.sign, futility.sign) == (Question(0, -1), 1, -1)
    assert promote.h0 == futility.h0 == pytest.approx(0.0557, abs=1e-4)
    for base in (0.1, 0.472, 0.6, 0.95):
        odds = 1.25 * base / (1 - base)
        assert odds / (1 + odds) - base <= promote.h0 + 1e-12
    assert others(WITH_CO, "good") == (Question(0, -1), Question(-0.05, 1))
    alike = make_rules(co_primary="good", response_bias=1)
    assert questions(alike) == questions(RULES)
    as_good = make_rules(co_primary="good", goal="not_worse", margin=0.03, wins="cost")
    assert questions(as_good) == questions(NOT_WORSE)
    assert others(as_good, "good") == (Question(0, -1), Question(-0.03, 1))


def test_the_goal_moves_the_questions_by_the_margin() -> None:
    assert questions(RULES) == (Question(0, -1), Question(0, 1), Question(0.05, -1))
    assert questions(NOT_WORSE) == (Question(-0.03, -1), Question(-0.03, 1), Question(-0.015, -1))


def test_futility_stops_and_names_the_gain_that_is_ruled_out() -> None:
    phase, _, reason = ask(1, make_metric(futility=math.log(12)))
    assert phase is Phase.STOPPED
    assert reason.endswith("a gain of 0.05 is ruled out")


def test_a_sample_ratio_that_does_not_fit_is_inconclusive_and_not_promoted() -> None:
    phase, _, reason = ask(1, make_metric(ratio=math.log(1001), promote=9))
    assert phase is Phase.INCONCLUSIVE
    assert reason.startswith("sample ratio e-value 1001 >= 1000")


def test_an_undecided_release_ends_at_its_time() -> None:
    phase, _, reason = ask(1000, make_metric())
    assert phase is Phase.INCONCLUSIVE
    assert reason.startswith("undecided after 1000 s >= max_seconds 1000")


def test_stale_evidence_holds_but_does_not_hide_harm() -> None:
    release = make_release(RULES)
    stale = Evidence(make_metric(), (), "lake away")
    found = decide(release, stale, RULES, NOW + 500)
    assert found == (Phase.RAMPING, "holding: lake away", 0)
    harmful = Evidence(make_metric(harm=5.0), (), "lake away")
    assert decide(release, harmful, RULES, NOW).phase is Phase.ROLLED_BACK


def test_an_ungated_release_ends_at_its_last_step() -> None:
    last = last_stage(RULES)
    assert ask(60, make_metric(promote=99), ungated="why", alpha=0.0, stage=last)[0] is (
        Phase.INCONCLUSIVE
    )
    assert ask(60, make_metric(), ungated="why", alpha=0.0)[1] == 1


def test_a_very_large_e_value_is_told_as_a_power_of_ten() -> None:
    assert "10^434 >= 10" in ask(1, make_metric(harm=1000.0))[2]


logs = st.floats(0, 40)
metrics = st.builds(
    MetricEvidence,
    st.just("thumbs"),
    units=st.integers(0, 10_000),
    candidates=st.integers(0, 100),
    promote=logs,
    harm=logs,
    futility=logs,
    ratio=logs,
)
evidences = st.builds(
    Evidence,
    metrics,
    st.lists(metrics, max_size=3).map(tuple),
    st.one_of(st.none(), st.just("stale")),
)
releases = st.builds(
    make_release,
    st.just(RULES),
    phase=st.sampled_from(Phase),
    stage=st.integers(0, last_stage(RULES)),
    alpha=st.floats(0, 0.1),
    ungated=st.one_of(st.none(), st.just("why")),
)
seconds = st.floats(0, 5000)


@given(releases, evidences, seconds)
def test_an_ungated_version_is_never_promoted(
    release: Release, evidence: Evidence, elapsed: float
) -> None:
    found = decide(release, evidence, RULES, NOW + elapsed)
    if found.phase is Phase.PROMOTED and release.phase is not Phase.PROMOTED:
        assert release.ungated is None
        assert release.phase is Phase.RAMPING
        assert evidence.problem is None
        assert elapsed >= RULES.min_dwell_seconds
        assert all(each.candidates >= RULES.min_units for each in evidence.guardrails)
        assert evidence.primary.promote >= math.log(1 / release.alpha)


@given(releases, evidences, seconds)
def test_an_ended_release_stays_as_it_ended(
    release: Release, evidence: Evidence, elapsed: float
) -> None:
    if release.phase in ENDED:
        found = decide(release, evidence, RULES, NOW + elapsed)
        assert found == (release.phase, release.reason, release.stage)


@given(releases, evidences, seconds)
def test_the_share_never_falls_and_rises_by_one_step_at_most(
    release: Release, evidence: Evidence, elapsed: float
) -> None:
    found = decide(release, evidence, RULES, NOW + elapsed)
    if found.phase is Phase.RAMPING:
        assert release.stage <= found.stage <= min(release.stage + 1, last_stage(RULES))


@given(releases, evidences, seconds)
def test_harm_always_ends_a_ramp(release: Release, evidence: Evidence, elapsed: float) -> None:
    found = decide(release, evidence, RULES, NOW + elapsed)
    if release.phase is Phase.RAMPING and evidence.primary.harm >= math.log(10):
        assert found.phase is Phase.ROLLED_BACK
    if found.phase is not release.phase:
        assert found.reason

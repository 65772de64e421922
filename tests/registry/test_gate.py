"""The gate's decision: passed, failed and inconclusive, each with the comparison that decided."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn.rules import GateRules
from registry.gate import Evidence, Phase, Row, Suite, decide
from registry.interval import mean_bounds

RULES = GateRules()


def make_rows(
    count: int,
    champion: float | None = 0.0,
    candidate: float | None = 1.0,
    source: str = "expert",
    start: int = 0,
) -> list[Row]:
    return [
        Row(prompt_key=f"{source}{i}", champion=champion, candidate=candidate, source=source)
        for i in range(start, start + count)
    ]


def make_evidence(rows: list[Row], **overrides: Any) -> Evidence:
    fields: dict[str, Any] = {"task": "t", "champion": "base", "candidate": "1", **overrides}
    return Evidence(rows=rows, **fields)


def test_a_gain_passes_and_the_reason_shows_the_comparison() -> None:
    verdict = decide(make_evidence(make_rows(23) + make_rows(34, 1.0, 1.0, start=23)), RULES)
    assert verdict.phase is Phase.PASSED
    assert verdict.reason == (
        "gain 0.404, at 80 % confidence at least 0.347 > min_gain 0.000 on 57 expert-reviewed "
        "rows; a version that is at min_gain passes in 20 %"
    )


def test_a_loss_fails() -> None:
    rows = make_rows(10, 1.0, 0.0) + make_rows(47, 1.0, 1.0, start=10)
    verdict = decide(make_evidence(rows), RULES)
    assert verdict.phase is Phase.FAILED
    assert verdict.reason.startswith("gain -0.175, at 80 % confidence at most -0.1")
    assert " < min_gain 0.000 on 57" in verdict.reason


def test_what_cannot_be_told_from_the_floor_says_how_many_rows_would_do() -> None:
    rows = make_rows(6) + make_rows(4, 1.0, 0.0, start=6) + make_rows(20, 1.0, 1.0, start=10)
    verdict = decide(make_evidence(rows), RULES)
    assert verdict.phase is Phase.INCONCLUSIVE
    assert verdict.reason.startswith("not enough evidence: gain 0.067, at 80 % confidence between")
    needed = int(verdict.reason.split("about ")[1].split()[0])
    # Somewhat more rows of the same kind do, and far fewer do not.
    for share, phase in ((1.2, Phase.PASSED), (0.7, Phase.INCONCLUSIVE)):
        times = needed * share / 30
        many = (
            make_rows(round(6 * times))
            + make_rows(round(4 * times), 1.0, 0.0, start=10_000)
            + make_rows(round(20 * times), 1.0, 1.0, start=20_000)
        )
        assert decide(make_evidence(many), RULES).phase is phase


def test_equal_answers_are_no_evidence_either_way() -> None:
    verdict = decide(make_evidence(make_rows(57, 1.0, 1.0)), RULES)
    assert verdict.phase is Phase.INCONCLUSIVE
    assert verdict.reason.endswith("no number of rows like these would tell")
    # But they are as good as the champion's where that is what is asked.
    assert decide(make_evidence(make_rows(57, 1.0, 1.0)), RULES, margin=0.1).phase is Phase.PASSED


def test_under_not_worse_the_floor_is_minus_the_margin() -> None:
    rows = make_rows(3, 1.0, 0.0) + make_rows(97, 1.0, 1.0, start=3)
    verdict = decide(make_evidence(rows), RULES, margin=0.10)
    assert verdict.phase is Phase.PASSED
    assert "> -margin -0.100 on 100 expert" in verdict.reason
    assert decide(make_evidence(rows), RULES).phase is Phase.FAILED
    worse = make_rows(20, 1.0, 0.0) + make_rows(80, 1.0, 1.0, start=20)
    assert decide(make_evidence(worse), RULES, margin=0.10).phase is Phase.FAILED


@pytest.mark.parametrize(
    ("gain", "least", "most"), [(0.0, 0.15, 0.25), (-0.05, 0.0, 0.12), (0.10, 0.52, 0.70)]
)
def test_thirty_fresh_rows_pass_what_they_promise(gain: float, least: float, most: float) -> None:
    """Three of ten rows answered rightly by one of the two; 1,000 exams. Who chose among several
    methods did so on other rows, so the number of methods changes nothing here."""
    dice = random.Random(4)
    passed = 0
    for _ in range(1000):
        places = [dice.random() for _ in range(30)]
        values = [1.0 if u < 0.15 + gain / 2 else -1.0 if u < 0.3 else 0.0 for u in places]
        passed += mean_bounds(values, 0.8).low > 0
    assert least <= passed / 1000 <= most


def test_too_few_rows_are_inconclusive_however_good() -> None:
    verdict = decide(make_evidence(make_rows(19)), RULES)
    assert (verdict.phase, verdict.reason) == (Phase.INCONCLUSIVE, "19 rows < min_rows 20")


def test_unscored_rows_are_counted_and_are_no_zeros() -> None:
    rows = make_rows(20) + make_rows(30, None, 1.0, start=20) + make_rows(5, 1.0, None, start=50)
    verdict = decide(make_evidence(rows), RULES)
    assert verdict.phase is Phase.PASSED
    assert "> min_gain 0.000 on 20 expert-reviewed rows (35 unscored)" in verdict.reason


def test_expert_reviewed_rows_decide_over_more_rows_of_users() -> None:
    rows = make_rows(20, 1.0, 0.0) + make_rows(200, 0.0, 1.0, source="user")
    assert decide(make_evidence(rows), RULES).phase is Phase.FAILED


def test_all_rows_decide_where_experts_reviewed_too_few() -> None:
    rows = make_rows(10) + make_rows(20, 0.0, 1.0, source="user")
    verdict = decide(make_evidence(rows), RULES)
    assert verdict.phase is Phase.PASSED
    assert "on 30 rows" in verdict.reason


def test_one_prompt_asked_often_is_one_row() -> None:
    rows = [Row(prompt_key="same", champion=0.0, candidate=1.0) for _ in range(40)]
    assert decide(make_evidence(rows), RULES).reason == "1 rows < min_rows 20"


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (
            {"regression": Suite(champion=1.0, candidate=0.9, rows=40)},
            "regression 0.100 > max_regression 0.020 on 40 rows (1.000 -> 0.900)",
        ),
        ({"latency_ratio": 1.5}, "latency_ratio 1.50 > max_latency_ratio 1.20"),
        ({"length_ratio": 2.0}, "length_ratio 2.00 > max_length_ratio 1.50"),
    ],
)
def test_a_gain_does_not_excuse_another_loss(overrides: dict[str, Any], reason: str) -> None:
    verdict = decide(make_evidence(make_rows(57), **overrides), RULES)
    assert (verdict.phase, verdict.reason) == (Phase.FAILED, reason)
    assert len(verdict.comparisons) == 5


def test_a_loss_at_the_limit_passes() -> None:
    suite = Suite(champion=0.92, candidate=0.90, rows=50)
    assert decide(make_evidence(make_rows(57), regression=suite), RULES).phase is Phase.PASSED


def test_a_declared_suite_that_was_not_run_is_inconclusive() -> None:
    rules = GateRules(regression_suite="suite.jsonl")
    verdict = decide(make_evidence(make_rows(57)), rules)
    assert verdict.phase is Phase.INCONCLUSIVE
    assert verdict.reason == "regression suite suite.jsonl was not run"


def test_failure_is_said_before_missing_evidence() -> None:
    rules = GateRules(regression_suite="suite.jsonl")
    assert decide(make_evidence(make_rows(57, 1.0, 0.0)), rules).phase is Phase.FAILED


scores = st.one_of(st.none(), st.floats(0, 1))


@given(st.lists(st.tuples(scores, scores), max_size=60), st.floats(-0.5, 0.5))
def test_nothing_passes_without_rows_or_gain(
    pairs: list[tuple[float | None, float | None]], min_gain: float
) -> None:
    rows = [
        Row(prompt_key=str(i), champion=champion, candidate=candidate)
        for i, (champion, candidate) in enumerate(pairs)
    ]
    verdict = decide(make_evidence(rows), GateRules(min_gain=min_gain))
    both = [b - a for a, b in pairs if a is not None and b is not None]
    if verdict.phase is Phase.PASSED:
        assert len(both) >= RULES.min_rows
        assert sum(both) / len(both) > min_gain
    if verdict.phase is Phase.FAILED:
        assert sum(both) / len(both) < min_gain


def test_the_bounds_hold_as_often_as_they_say() -> None:
    dice = random.Random(7)
    missed = [0, 0]
    for _ in range(1000):
        values = [0.7 - (dice.random() < 0.5) for _ in range(30)]
        found = mean_bounds(values, 0.8)
        missed[0] += found.low > 0.2
        missed[1] += found.high < 0.2
    assert all(0.10 <= each / 1000 <= 0.23 for each in missed)

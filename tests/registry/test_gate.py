"""The gate's decision: passed, failed and inconclusive, each with the comparison that decided."""

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn.errors import InputError
from everlearn.task import GateRules
from registry.gate import Evidence, Phase, Row, Suite, decide, parse

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
    assert verdict.reason.startswith(
        "gain 0.40 > min_gain 0.00 on 57 expert-reviewed rows, 95% CI 0."
    )


def test_no_gain_fails() -> None:
    verdict = decide(make_evidence(make_rows(57, 1.0, 1.0)), RULES)
    assert verdict.phase is Phase.FAILED
    assert verdict.reason.startswith("gain 0.00 <= min_gain 0.00 on 57")


def test_too_few_rows_are_inconclusive_however_good() -> None:
    verdict = decide(make_evidence(make_rows(19)), RULES)
    assert (verdict.phase, verdict.reason) == (Phase.INCONCLUSIVE, "19 rows < min_rows 20")


def test_unscored_rows_are_counted_and_are_no_zeros() -> None:
    rows = make_rows(20) + make_rows(30, None, 1.0, start=20) + make_rows(5, 1.0, None, start=50)
    verdict = decide(make_evidence(rows), RULES)
    assert verdict.phase is Phase.PASSED
    assert "gain 1.00 > min_gain 0.00 on 20 expert-reviewed rows (35 unscored)" in verdict.reason


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
    assert len(verdict.comparisons) == 4


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


def test_evidence_comes_as_json_and_other_json_is_refused_by_key() -> None:
    evidence = make_evidence(make_rows(2), regression=Suite(champion=1, candidate=1, rows=3))
    assert parse(msgspec.json.encode(evidence)) == evidence
    with pytest.raises(InputError, match=r"evidence\.json: .*prompt_key"):
        parse(b'{"task": "t", "champion": "base", "candidate": "1", "rows": [{}]}')


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
    enough = len(both) >= RULES.min_rows
    if verdict.phase is Phase.PASSED:
        assert enough
        assert sum(both) / len(both) > min_gain
    elif verdict.phase is Phase.INCONCLUSIVE:
        assert not enough


def test_the_interval_covers_the_true_gain() -> None:
    dice = random.Random(7)
    missed = 0
    for _ in range(60):
        rows = [
            Row(prompt_key=str(i), champion=float(dice.random() < 0.5), candidate=0.7)
            for i in range(60)
        ]
        words = decide(make_evidence(rows), RULES).comparisons[0].split("95% CI ")[1].split()
        missed += not float(words[0]) <= 0.2 <= float(words[2])
    assert missed <= 5

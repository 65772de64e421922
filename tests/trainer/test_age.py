"""What was right once: too old, or replaced by an expert's newer word."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.age import current
from trainer.rows import Kind, Row, accept

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)


def row(day: float, kind: Kind = "accepted", *, answer: str = "A", **more: Any) -> Row:
    """One word on one prompt, so many days after Monday."""
    made = Row(
        completion_id=f"cmpl_{day}_{kind}_{answer}",
        unit="u",
        kind=kind,
        messages=[{"role": "user", "content": more.pop("prompt", "what is a whale?")}],
        completion=answer,
        known_at=MONDAY + timedelta(days=day),
        author="end_user",
    )
    if kind == "accepted":
        made = accept(made, author="end_user")
    if kind == "correction":
        made = replace(made, completion="wrong", target=answer, author="expert")
    return replace(made, **more)


def reasons(rows: Sequence[Row], max_age_days: float | None = None) -> list[str | None]:
    return [each.dropped_reason for each in current(rows, max_age_days)]


def test_age_is_counted_back_from_the_newest_word() -> None:
    rows = [row(0), row(5), row(10)]
    assert reasons(rows, 5) == ["too_old", None, None]
    assert reasons(rows, 4.9) == ["too_old", "too_old", None]
    assert reasons(rows) == [None] * 3


def test_a_task_of_which_nobody_speaks_any_more_keeps_what_it_knows() -> None:
    assert reasons([row(-2000), row(-2001)], 30) == [None, None]


@pytest.mark.parametrize("kind", ["accepted", "correction", "preference", "rejected", "replay"])
def test_everything_grows_old(kind: Kind) -> None:
    assert reasons([row(0, kind, prompt="another"), row(9)], 3) == ["too_old", None]


def test_an_experts_newer_word_replaces_what_was_said_of_the_prompt_before() -> None:
    rows = [
        row(0, answer="old", author="expert"),
        row(1, "correction", answer="old"),
        row(1, "preference", answer="wrong", target="old", author="expert"),
        row(2, "correction", answer="new"),
    ]
    assert reasons(rows) == ["superseded", "superseded", "superseded", None]


@pytest.mark.parametrize(
    "other",
    [
        row(0, answer=" new\n", author="expert"),
        row(0, answer="old", author="expert", prompt="what is a feather?"),
        row(3, answer="old", author="expert"),
        row(0, "rejected", answer="old", author="expert"),
        row(0, "replay", answer="old", author=None),
        row(0, answer="old"),
    ],
    ids=["same", "of another prompt", "newer", "agrees that it is wrong", "unjudged", "a user's"],
)
def test_nothing_else_is_replaced(other: Row) -> None:
    assert reasons([other, row(2, "correction", answer="new")]) == [None, None]


def test_what_was_wrong_once_may_be_right_now() -> None:
    rows = [row(0, "rejected", answer="new", author="expert"), row(2, "correction", answer="new")]
    assert reasons(rows) == ["superseded", None]


def test_a_users_word_replaces_nothing() -> None:
    late = replace(row(2, "correction", answer="new"), author="end_user")
    assert reasons([row(0, answer="old", author="expert"), late]) == [None, None]


def test_rows_that_are_out_already_and_rows_without_a_time_stay_as_they_are() -> None:
    out = row(0, answer="old", dropped_reason="untrusted")
    undated = row(0, answer="old", known_at=None)
    rows = [out, undated, row(9, "correction", answer="new")]
    assert reasons(rows, 1) == ["untrusted", None, None]
    assert current([undated], 1) == [undated]
    assert current([], 1) == []


@given(
    days=st.lists(st.floats(0, 100), min_size=1, max_size=12),
    max_age=st.one_of(st.none(), st.floats(0.01, 200)),
)
def test_the_order_of_rows_says_nothing_and_the_newest_always_stays(
    days: list[float], max_age: float | None
) -> None:
    kinds: list[Kind] = ["accepted", "correction", "rejected"]
    rows = [row(day, kinds[n % 3], answer=str(n % 2)) for n, day in enumerate(days)]
    found = {id(each): why for each, why in zip(rows, reasons(rows, max_age), strict=True)}
    backwards = rows[::-1]
    again = {
        id(each): why for each, why in zip(backwards, reasons(backwards, max_age), strict=True)
    }
    assert found == again
    newest = max(day for day in days)
    assert any(found[id(each)] is None for each in rows if each == row_at(rows, newest))


def row_at(rows: Sequence[Row], day: float) -> Row:
    """The latest of them."""
    return next(each for each in rows if each.known_at == MONDAY + timedelta(days=day))

"""Two results are the same when their rows are: order, tolerance, types."""

import math
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.rows import Row, same

CELLS = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.floats(-5, 5), st.sampled_from("abc")
)
ROWS = st.lists(st.tuples(CELLS, CELLS), max_size=12)


@given(ROWS, st.randoms())
def test_shuffled_rows_are_the_same_multiset(rows: list[Row], random: Any) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert same(shuffled, rows, ordered=False)


@given(ROWS)
def test_one_row_more_is_another_result(rows: list[Row]) -> None:
    assert not same([*rows, ("extra", None)], rows, ordered=False)


@given(ROWS, st.floats(-9e-10, 9e-10))
def test_noise_in_numbers_changes_nothing(rows: list[Row], noise: float) -> None:
    noisy = [
        tuple(cell + noise if isinstance(cell, float) else cell for cell in row) for row in rows
    ]
    close = [
        tuple(0.0 if isinstance(cell, float) and abs(cell) < 1e-2 else cell for cell in row)
        for row in rows
    ]
    if close == rows:
        assert same(noisy, rows, ordered=False)


@pytest.mark.parametrize(
    ("answer", "reference", "ordered", "expected"),
    [
        ([(1,), (2,)], [(2,), (1,)], True, False),
        ([(1,), (2,)], [(2,), (1,)], False, True),
        ([(1,), (1,)], [(1,), (2,)], False, False),
        ([(3,)], [(Decimal("3.00"),)], False, True),
        ([(3.0000001,)], [(3,)], False, True),
        ([(3.1,)], [(3,)], False, False),
        ([(True,)], [(1,)], False, False),
        ([("1",)], [(1,)], False, False),
        ([(None,)], [(0,)], False, False),
        ([(math.nan,)], [(math.nan,)], False, True),
        ([(date(2026, 1, 1),)], [(date(2026, 1, 2),)], False, False),
        ([(1, 2)], [(2, 1)], False, False),
        ([(1,)], [(1, 1)], False, False),
        ([], [], False, True),
        ([(2**60,)], [(2**60 + 1,)], False, True),
        # sums that tie but for noise, in another order
        ([(0.1 + 0.2, 5), (0.3, 7)], [(0.3, 5), (0.1 + 0.2, 7)], False, True),
        ([("a", 1.0), ("b", 1.0)], [("b", 1.0000000001), ("a", 1.0)], False, True),
    ],
)
def test_rows_compare(
    answer: list[Row], reference: list[Row], ordered: bool, expected: bool
) -> None:
    assert same(answer, reference, ordered) is expected

"""Whether two query results are the same rows: a multiset unless the order counts.

Column names do not count, the order of columns does. Integers, decimals and floats are compared as
numbers with a tolerance; a boolean is not a number.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

Row = tuple[Any, ...]

RELATIVE_TOLERANCE = 1e-6
ABSOLUTE_TOLERANCE = 1e-9
_GREEDY_ROWS = 500
"""A group of rows with equal texts is matched pair by pair up to this size (quadratic)."""


def same(answer: Sequence[Row], reference: Sequence[Row], ordered: bool) -> bool:
    """Whether both results hold the same rows."""
    if len(answer) != len(reference):
        return False
    ours = [tuple(_cell(value) for value in row) for row in answer]
    theirs = [tuple(_cell(value) for value in row) for row in reference]
    if ours == theirs:
        return True
    if ordered:
        return all(map(_close, ours, theirs))
    left, right = _groups(ours), _groups(theirs)
    return left.keys() == right.keys() and all(_match(left[key], right[key]) for key in left)


def _cell(value: Any) -> Any:
    """Numbers as floats (exact integers stay), everything else as a tagged text."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return (type(value).__name__, repr(value))
    return value


def _is_number(cell: Any) -> bool:
    return isinstance(cell, int | float)


def _equal(a: Any, b: Any) -> bool:
    if _is_number(a) and _is_number(b):
        return (
            a == b
            or (math.isnan(a) and math.isnan(b))
            or math.isclose(a, b, rel_tol=RELATIVE_TOLERANCE, abs_tol=ABSOLUTE_TOLERANCE)
        )
    return bool(a == b)


def _close(a: Row, b: Row) -> bool:
    return len(a) == len(b) and all(map(_equal, a, b))


def _groups(rows: Sequence[Row]) -> dict[Row, list[Row]]:
    """Rows by everything in them that has no tolerance."""
    groups: dict[Row, list[Row]] = defaultdict(list)
    for row in rows:
        groups[tuple(None if _is_number(cell) else cell for cell in row)].append(row)
    return groups


def _numbers(row: Row) -> tuple[float, ...]:
    """Sort key: the numbers at six digits, so that noise does not reorder ties."""
    return tuple(
        -math.inf if math.isnan(cell) else float(f"{cell:.5e}") for cell in row if _is_number(cell)
    )


def _match(left: list[Row], right: list[Row]) -> bool:
    if len(left) != len(right):
        return False
    left, right = sorted(left, key=_numbers), sorted(right, key=_numbers)
    if all(map(_close, left, right)):
        return True
    return len(left) <= _GREEDY_ROWS and _greedy(left, right)


def _greedy(left: list[Row], right: list[Row]) -> bool:
    """Each row of the left takes the first close one of the right."""
    free = list(right)
    for row in left:
        found = next((i for i, other in enumerate(free) if _close(row, other)), None)
        if found is None:
            return False
        del free[found]
    return True

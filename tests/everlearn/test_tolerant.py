"""Other people's JSON: what does not fit is left out, field by field."""

import json
from typing import Any

import msgspec
import pytest

from everlearn.tolerant import Unfit, encode, fit, loads, mended, read, whole


class Inner(msgspec.Struct):
    n: int = 0
    s: str | None = None


class Outer(msgspec.Struct):
    a: float | None = None
    inner: Inner | None = None
    many: list[Inner] | None = None
    ids: list[int] | None = None
    raw: msgspec.Raw = msgspec.Raw(b"")
    any: Any = None
    renamed: str = msgspec.field(default="", name="else")


decode = msgspec.json.Decoder(Outer).decode


def tolerantly(body: Any) -> Outer:
    return read(decode, Outer, json.dumps(body).encode())


def test_fields_that_do_not_fit_are_left_out() -> None:
    found = tolerantly(
        {"a": "x", "inner": {"n": "five", "s": "kept"}, "many": [{"n": 1}, 5, {"n": []}],
         "ids": [1, 2], "raw": {"k": 1}, "any": [5], "else": "name"}
    )  # fmt: skip
    assert (found.a, found.inner) == (None, Inner(0, "kept"))
    assert (found.many, found.ids) == ([Inner(1), Inner(0)], [1, 2])
    assert (bytes(found.raw), found.any, found.renamed) == (b'{"k":1}', [5], "name")


def test_a_hole_in_a_list_of_numbers_costs_the_list() -> None:
    assert tolerantly({"a": "x", "ids": [1, None, 2]}).ids is None
    assert tolerantly({"a": 5, "ids": [1, True]}).ids is None


def test_an_integer_is_a_float_where_one_is_asked_for() -> None:
    assert tolerantly({"a": 5, "inner": "x"}).a == 5.0


@pytest.mark.parametrize("body", [[], "text", None, 5])
def test_what_is_no_object_fits_no_struct(body: Any) -> None:
    with pytest.raises(Unfit):
        fit(Outer, body)


def test_numbers_without_end_are_null() -> None:
    digits = "1" * 5000
    assert loads(f'[1e999, NaN, -Infinity, {digits}, {"1" * 30}]') == [
        None, None, None, None, float("1" * 30),
    ]  # fmt: skip


def test_halves_of_characters_are_joined_or_replaced() -> None:
    assert mended("a\ud83d\ude00b\ud83d") == "a\U0001f600b\ufffd"
    assert whole({"\ud83d": ["\ude00", 5, None]}) == {"\ufffd": ["\ufffd", 5, None]}
    assert json.loads(encode({"a": ["\ud83d\ude00"]})) == {"a": ["\U0001f600"]}


def test_bytes_that_are_no_utf_8_are_read_all_the_same() -> None:
    assert loads(b'{"a": "\xff"}') == {"a": "\ufffd"}

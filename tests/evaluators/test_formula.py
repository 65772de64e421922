"""Formulas compute; nothing else in them compiles."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.formula import Formula
from everlearn.errors import ConfigError, GraderError


def value(text: str, **values: float) -> float:
    return Formula(text, "grader g").evaluate(values)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.2*a + 0.8*b", 0.6),
        ("2*a^2", 2.0),
        ("-b^2", -0.25),
        ("min(a, b, 0.1) + max(a, b)", 1.1),
        ("abs(-a) + floor(1.7) + ceil(0.2)", 3.0),
        ("exp(0) + sqrt(4) + log(1)", 3.0),
        ("a/4", 0.25),
    ],
)
def test_formulas_compute(text: str, expected: float) -> None:
    assert value(text, a=1.0, b=0.5) == pytest.approx(expected)


def test_the_graders_it_reads_are_its_names_and_no_functions() -> None:
    assert Formula("min(a, b) + a", "g").names == ("a", "b")


@pytest.mark.parametrize(
    "text",
    ["", "a +", "a; b", "__import__('os')", "a.real", "a if b else c", "[a]", "lambda: a", "'x'*3",
     "a == b", "open(a)", "max(a, key=b)", "a % b", "a // b", "a and b", "(a := 1)", "True", "1j"],
)  # fmt: skip
def test_anything_else_does_not_compile(text: str) -> None:
    with pytest.raises(ConfigError, match="grader g"):
        Formula(text, "grader g")


def test_a_name_of_any_characters_stands_in_backquotes() -> None:
    text = "0.5 * `exact match!` + `größe-1` / `exact match!`"
    formula = Formula(text, "g")
    assert formula.names == ("exact match!", "größe-1")
    assert formula.evaluate({"exact match!": 0.5, "größe-1": 1.0}) == 2.25


@pytest.mark.parametrize("text", ["exact match", "`open", "if + 1"])
def test_a_name_that_is_no_plain_word_is_refused_with_the_way_out(text: str) -> None:
    with pytest.raises(ConfigError, match="stands in backquotes"):
        Formula(text, "g")


@pytest.mark.parametrize(
    "text", ["9^9^9", "2^4000000 * a", "exp(exp(exp(9)))", "(-8)^0.5", "1e308 * 10 + a"]
)
def test_numbers_do_not_grow(text: str) -> None:
    started = time.perf_counter()
    with pytest.raises(GraderError):
        value(text, a=1.0)
    assert time.perf_counter() - started < 2, "a number that grows takes minutes"


@pytest.mark.parametrize("text", ["a" + "+a" * 2000, "(" * 100 + "a" + ")" * 100 + "^2" * 60])
def test_a_formula_that_is_too_long_or_deep_does_not_compile(text: str) -> None:
    with pytest.raises(ConfigError, match=r"at most|deeper|not a formula"):
        Formula(text, "g")


@pytest.mark.parametrize(
    "text", ["1/a", "log(a)", "sqrt(-1 + a)", "exp(1000)", "9^9^9^9", "log(a-1)"]
)
def test_where_mathematics_has_no_value_there_is_no_score(text: str) -> None:
    with pytest.raises(GraderError):
        value(text, a=0.0)


def test_a_quoted_name_may_hold_the_sign_of_the_power() -> None:
    formula = Formula("2 * `a^b` ^ 2", "g")
    assert formula.names == ("a^b",)
    assert formula.evaluate({"a^b": 3.0}) == 18.0


@given(st.text(max_size=30))
def test_no_text_does_anything_but_compile_or_be_refused(text: str) -> None:
    try:
        formula = Formula(text, "g")
    except ConfigError:
        return
    try:
        result = formula.evaluate(dict.fromkeys(formula.names, 0.5))
    except GraderError:
        return
    assert isinstance(result, float)

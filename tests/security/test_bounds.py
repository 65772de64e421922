"""No work on a loop that serves others grows faster than its input, or without a limit."""

import json
import time
from typing import Any

import pytest

from evaluators.schema import MAX_DEPTH, MAX_STEPS, Schema
from evaluators.template import MAX_RENDERED, MAX_TEMPLATE, Template
from evaluators.types import Sample
from everlearn import regex
from everlearn.errors import ConfigError, GraderError
from gateway.masking import MAX_MATCHES, SEARCH_SECONDS, Masker
from tests.builders import make_completion
from tests.security.growth import growth

SLOW = {
    r"(a+)+$": "a",
    r"(a|a)*b": "a",
    r"(a|aa)+$": "a",
    r"(.*)*x": "a",
    r"^(([a-z])+.)+[A-Z]([a-z])+$": "a",
    r".*.*=.*": "a",
    r"(\w+\s?)*!": "a b ",
    r"([a-zA-Z0-9])(([\-.]|[_]+)?([a-zA-Z0-9]+))*(@){1}[a-z0-9]+": "a",
    r"\s+$": " ",
    r"<(\w+)[^>]*>.*</\w+>": "<a>",
    r"\b\d{3}-\d{2}-\d{4}\b": "123-",
    r"[\w.]+@[\w.]+": "a.",
}


@pytest.mark.parametrize("pattern", SLOW)
def test_a_slow_pattern_takes_time_in_proportion(pattern: str) -> None:
    compiled = regex.compile(pattern)
    piece = SLOW[pattern]
    assert growth(lambda n: list(compiled.finditer(piece * n + "é")), 100_000) <= 2.5


@pytest.mark.parametrize(
    "piece", ['"', '\\"', "\\\\", "\\u005c", "\\u005cu005c", '{"a":', "1", "[", "\\u0031", "\ud83d"]
)
def test_masking_takes_time_in_proportion_whatever_the_body(piece: str) -> None:
    masker = Masker([r"\b\d{3}-\d{2}-\d{4}\b", r"(\w+\s?)*!"])

    def work(size: int) -> object:
        body = f'{{"x": "123-45-6789 {piece * size}'.encode("utf-8", "replace")
        return masker.event(make_completion(request=body, response=body))

    assert growth(work, 10_000) <= 2.5
    started = time.perf_counter()
    work(100_000)
    assert time.perf_counter() - started < 10


def test_matches_that_each_read_to_the_end_take_no_more_than_their_seconds() -> None:
    """Each of 9,000 would read on through the rest: 14 s for a megabyte, without a limit."""
    spent = 0

    def seconds() -> float:
        nonlocal spent
        spent += 1
        return spent * SEARCH_SECONDS / 100

    text = "x" * 9_000 + "a" * 1_000
    assert Masker([r"x.*y|x"], seconds).text(text) == "[masked]"
    assert spent <= 102
    assert Masker([r"x.*y|x"], lambda: 0.0).text(text) == "[masked]" * 9_000 + "a" * 1_000


def test_what_cannot_be_searched_in_time_is_not_kept() -> None:
    masker = Masker([r"x.*y|x"])
    assert masker.text("x" * (MAX_MATCHES + 1)) == "[masked]"
    assert masker.text("\\u005c" + "u005c" * 100 + "z") == "[masked]"
    assert masker.text("x" * 3) == "[masked]" * 3
    half = make_completion(request=b'{"a": "\\ud800 x"}')
    assert masker.event(half).request == b'{"a": "\\ud800 [masked]"}'  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "pattern", [r"(a)\1", r"a(?=b)", r"a(?!b)", r"(?<=a)b", r"(?<!a)b", r"(?P<n>a)(?P=n)"]
)
def test_a_pattern_without_a_linear_search_is_refused_by_name(pattern: str) -> None:
    with pytest.raises(ValueError, match="no backreferences"):
        regex.compile(pattern)
    with pytest.raises(ConfigError, match="cannot be searched in linear time"):
        Schema({"pattern": pattern}, "grader g")


@pytest.mark.parametrize("pattern", ["(", "a" * 20_000, "[z-a]", "a{9999}", "((a{99}){99}){99}"])
def test_a_pattern_that_is_wrong_or_too_large_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"not a regular expression|linear time"):
        regex.compile(pattern)


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        (r"\w+", "größe", (0, 5)), (r"\d+", "٣٤", (0, 2)), (r"[^\s]+", "a\u3000b", (0, 1)),
        (r"[]a]+", "]a", (0, 2)), (r"[[a]+", "[a", (0, 2)), (r"a{,2}b", "aab", (0, 3)),
        (r"x\Z", "ax", (1, 2)), (r"\u00e4", "ä", (0, 1)), (r"\W", "aä-", (2, 3)),
        (r"(?i)abc", "xABC", (1, 4)), (r"\[\w", "a[b", (1, 3)), (r"[\w-]+", "ä-b", (0, 3)),
    ],
)  # fmt: skip
def test_patterns_mean_what_they_mean_in_python(
    pattern: str, text: str, found: tuple[int, int]
) -> None:
    match = regex.compile(pattern).search(text)
    assert match is not None
    assert match.span() == found


def _bomb() -> dict[str, Any]:
    doubled = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)}
    return {"$defs": {**doubled, "d40": {"type": "integer"}}, "$ref": "#/$defs/d0"}


def _deep(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"$ref": "http://127.0.0.1:9/x"}, "nothing is fetched"),
        ({"$ref": "file:///etc/passwd"}, "nothing is fetched"),
        ({"properties": {"a": {"$dynamicRef": "other.json#x"}}}, "nothing is fetched"),
        (_deep(100), "nested deeper"),
        ({"enum": ["x" * 300_000]}, "characters"),
        ({"type": "magic"}, "is not valid"),
    ],
)
def test_a_schema_without_bounds_does_not_compile(schema: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        Schema(schema, "grader g: json_schema")


@pytest.mark.parametrize(
    ("schema", "reason"),
    [(_bomb(), f"more than {MAX_STEPS} steps"), ({"$ref": "#"}, "without end"),
     ({"$ref": "#/nothing"}, "nothing")],
)  # fmt: skip
def test_a_schema_that_does_not_come_to_an_end_is_unscored(schema: Any, reason: str) -> None:
    compiled = Schema(schema, "grader g")
    started = time.process_time()
    with pytest.raises(GraderError, match=reason):
        compiled.problem("1")
    assert time.process_time() - started < 5


def test_an_answer_without_bounds_is_wrong_not_slow() -> None:
    schema = Schema({"items": {"pattern": "^(a+)+$"}, "uniqueItems": True}, "g")
    assert "nested deeper" in str(schema.problem("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1)))
    assert "characters" in str(schema.problem(json.dumps(["x" * 2_000_000])))
    assert "not JSON" in str(schema.problem("[" * 100_000))
    assert growth(lambda n: schema.problem(json.dumps(["a" * n + "b"])), 100_000) <= 2.5
    assert growth(lambda n: schema.problem(json.dumps([{"a": i} for i in range(n)])), 5_000) <= 2.5


def test_unique_items_are_those_of_json() -> None:
    schema = Schema({"uniqueItems": True}, "g")
    for same in ("[1, 1.0]", '[{"a": 1, "b": 2}, {"b": 2, "a": 1}]', "[null, null]"):
        assert schema.problem(same) == "$: the items are not unique"
    for other in ('[1, "1", true, [1], null, {"a": 1}]', "[0, false]"):
        assert schema.problem(other) is None


def test_templates_are_bounded() -> None:
    def parse(size: int) -> None:
        with pytest.raises(ConfigError):
            Template("{{" * size, "g")

    assert growth(parse, 50_000) <= 2.5
    with pytest.raises(ConfigError, match="characters"):
        Template("x" * (MAX_TEMPLATE + 1), "g")
    many = Template("{{ sample.output_text }}" * 100, "g")
    with pytest.raises(GraderError, match="characters to grade"):
        many.render(Sample("x" * (MAX_RENDERED // 50)), {})

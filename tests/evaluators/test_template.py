"""Templates are strict: what is not known is never an empty text."""

import pytest

from evaluators.template import Template, Unknown
from evaluators.types import Sample
from everlearn.errors import ConfigError

ITEM = {"reference": "4", "meta": {"tags": ["a", "b"]}, "empty": None, "count": 3}


def render(text: str, answer: str = "four") -> str:
    return Template(text, "grader g: input").render(Sample(answer, choices=({"index": 0},)), ITEM)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain {text}", "plain {text}"),
        ("{{ item.reference }}", "4"),
        ("<{{sample.output_text}}|{{item.reference}}>", "<four|4>"),
        ("{{ item.meta.tags[1] }}", "b"),
        ("{{ item.meta.tags.0 }}", "a"),
        ("{{ item.meta }}", '{"tags": ["a", "b"]}'),
        ("{{ item.count }}", "3"),
        ("{{ sample.choices[0].index }}", "0"),
    ],
)
def test_names_are_filled_in(text: str, expected: str) -> None:
    assert render(text) == expected


def test_text_and_values_stand_apart() -> None:
    template = Template("Is {{item.meta.tags[1]}} or {{ item.count }}: {{item.count}}?", "here")
    assert template.named == "Is [item.meta.tags.1] or [item.count]: [item.count]?"
    assert template.values(Sample("x"), ITEM) == {"item.meta.tags.1": "b", "item.count": "3"}


def test_a_value_that_looks_like_a_template_stays_text() -> None:
    assert render("{{ sample.output_text }}", "{{ item.reference }}") == "{{ item.reference }}"


def test_output_json_reads_into_the_answer() -> None:
    assert render("{{ sample.output_json.sql[0] }}", '{"sql": ["select 1"]}') == "select 1"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("{{ item.missing }}", "item.missing"),
        ("{{ item.empty }}", "item.empty"),
        ("{{ item.meta.tags[9] }}", "item.meta.tags.9"),
        ("{{ item.reference.more }}", "item.reference.more"),
        ("{{ sample.output_json.x }}", "sample.output_json.x"),
    ],
)
def test_an_unknown_name_is_said(text: str, name: str) -> None:
    with pytest.raises(Unknown, match=f"^{name} is not known$"):
        render(text)


@pytest.mark.parametrize(
    "text",
    ["{{ reference }}", "{{ item }}", "{{ other.x }}", "{{ item.x | upper }}", "{{ item.x", "{{}}",
     "{{ sample.text }}", "{{ item.x() }}"],
)  # fmt: skip
def test_a_bad_placeholder_does_not_compile(text: str) -> None:
    with pytest.raises(ConfigError, match="grader g: input"):
        Template(text, "grader g: input")

"""Similarity metrics: 1 for equal texts, 0 for strangers, known values between."""

import pytest

from evaluators.similarity import METRICS
from everlearn.errors import ConfigError
from tests.evaluators.graders import make_grader, verdict


@pytest.mark.parametrize("name", METRICS)
def test_equal_texts_are_fully_similar_and_strangers_are_not(name: str) -> None:
    text = "the cat sat on the mat"
    assert METRICS[name](text, text) == pytest.approx(1.0)
    assert METRICS[name]("zzz qqq", "aaaa") < 0.2
    assert METRICS[name]("", text) == 0.0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rouge_1", 2 * 3 / (3 + 6)),
        ("rouge_2", 2 * 2 / (2 + 5)),
        ("rouge_l", 2 * 3 / (3 + 6)),
        ("gleu", 6 / 18),
        ("fuzzy_match", 2 * 11 / (11 + 22)),
    ],
)
def test_known_values(name: str, expected: float) -> None:
    assert METRICS[name]("the cat sat", "the cat sat on the mat") == pytest.approx(expected)


@pytest.mark.anyio
async def test_the_grader_compares_what_the_templates_say() -> None:
    grader = make_grader(
        type="text_similarity", evaluation_metric="fuzzy_match",
        input="{{ sample.output_text }}", reference="{{ item.reference }}",
    )  # fmt: skip
    assert (await verdict(grader, "abc", reference="abd")).value == pytest.approx(2 / 3)
    assert (await verdict(grader, "abc")).reason == "item.reference is not known"


@pytest.mark.parametrize("metric", ["cosine", "meteor"])
def test_a_metric_that_is_not_here_says_which_are(metric: str) -> None:
    with pytest.raises(ConfigError, match="not supported; there are: fuzzy_match, bleu"):
        make_grader(type="text_similarity", evaluation_metric=metric, input="a", reference="b")

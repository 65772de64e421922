"""Similarity metrics: 1 for equal texts, 0 for strangers, the libraries' values between."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.responses import JSONResponse

from evaluators.similarity import MAX_CHARACTERS, METRICS
from everlearn.errors import GraderError
from tests.evaluators.graders import make_grader, verdict
from tests.evaluators.judge_server import JudgeServer, judge_server
from tests.evaluators.test_judge import service

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("name", METRICS)
def test_equal_texts_are_fully_similar_and_strangers_are_not(name: str) -> None:
    text = "the cat sat on the mat"
    # METEOR takes a little off for each run of matches, one run among them
    assert METRICS[name](text, text) == pytest.approx(1.0, abs=0.005)
    assert METRICS[name]("zzz qqq", "aaaa") < 0.2
    assert METRICS[name]("", text) == 0.0
    assert METRICS[name](" ", "") == 1.0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rouge_1", 2 * 3 / (3 + 6)),
        ("rouge_2", 2 * 2 / (2 + 5)),
        ("rouge_l", 2 * 3 / (3 + 6)),
        ("gleu", 6 / 18),
        ("fuzzy_match", 2 * 11 / (11 + 22)),
        ("bleu", 2.718281828 ** (1 - 6 / 3)),
        ("meteor", 10 * 0.5 / 9.5 * (1 - 0.5 * (2 / 3) ** 3)),
    ],
)
def test_known_values(name: str, expected: float) -> None:
    assert METRICS[name]("the cat sat", "the cat sat on the mat") == pytest.approx(
        expected, abs=1e-3
    )


def test_words_of_any_script_count() -> None:
    assert METRICS["rouge_1"]("Привет, мир", "привет мир!") == 1.0
    assert METRICS["meteor"]("cats", "cat") > 0.4  # by the stem; a synonym would not match


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize(
    ("text", "like", "unlike"),
    [
        ("今天天气很不错我们去公园", "今天天气真的很不错我们去公园吧", "他昨晚在家里看书"),
        ("東京は日本の首都です", "東京は日本の大きな首都です", "猫がソファで寝た"),
        ("วันนี้อากาศดีมาก", "วันนี้อากาศดีมากจริง", "แมวหลับบนโซฟา"),
        ("answer: 今天天气很不错的", "answer: 今天天气不错的", "result: 他昨晚看书"),
    ],
)
def test_texts_without_spaces_are_compared_by_their_characters(
    name: str, text: str, like: str, unlike: str
) -> None:
    near, far = METRICS[name](text, like), METRICS[name](text, unlike)
    assert METRICS[name](text, text) == pytest.approx(1.0, abs=0.01)
    assert near > far
    assert near > 0.2
    assert far < 0.4


@pytest.mark.parametrize("name", [name for name in METRICS if name != "meteor"])
@pytest.mark.parametrize("text", ["yes", "\U0001f44d", "!!!", "你好", "a \ud83d b", "1\n2"])
def test_equal_texts_are_equal_however_short_or_wordless(name: str, text: str) -> None:
    assert METRICS[name](text, text) == pytest.approx(1.0)
    assert METRICS[name](text, "\U0001f44e nothing of it") < 0.5


def test_what_is_too_long_is_not_compared() -> None:
    long = "a " * MAX_CHARACTERS
    for metric in METRICS.values():
        assert metric(long, "a") == 0.0
        with pytest.raises(GraderError, match="the reference is too long"):
            metric("a", long)
    with pytest.raises(GraderError, match="the text is too long"):
        METRICS["rouge_l"]("a " * 2001, "a " * 1999)
    with pytest.raises(GraderError, match="the text is too long"):
        METRICS["rouge_l"]("天" * 2001, "天" * 1999)


async def test_the_grader_compares_what_the_templates_say() -> None:
    grader = make_grader(
        type="text_similarity", evaluation_metric="fuzzy_match", pass_threshold=0.6,
        input="{{ sample.output_text }}", reference="{{ item.reference }}",
    )  # fmt: skip
    found = await verdict(grader, "abc", reference="abd")
    assert found.value == pytest.approx(2 / 3)
    assert found.label == "pass"
    assert (await verdict(grader, "abc", reference="xyz")).label == "fail"
    assert (await verdict(grader, "abc")).reason == "item.reference is not known"


COSINE: dict[str, Any] = {
    "type": "text_similarity", "evaluation_metric": "cosine",
    "input": "{{ sample.output_text }}", "reference": "{{ item.reference }}",
}  # fmt: skip


@pytest.fixture
def embedder() -> Iterator[JudgeServer]:
    with judge_server() as running:
        yield running


def embeddings(*vectors: list[float]) -> Any:
    rows = [{"index": n, "embedding": vector} for n, vector in enumerate(vectors)]
    return lambda request: JSONResponse({"data": rows[::-1]})


async def test_cosine_asks_the_embedding_model(tmp_path: Path, embedder: JudgeServer) -> None:
    config = service(tmp_path, embedder.address)
    grader = make_grader(tmp_path, config, **COSINE, embedding_model="e")
    cases = [([1.0, 0.0], [1.0, 1.0], 0.7071), ([1.0, 0.0], [-1.0, 0.0], 0.0)]
    for one, two, expected in cases:
        embedder.answer = embeddings(one, two)
        found = await verdict(grader, "abc", reference="abd")
        assert found.value == pytest.approx(expected, abs=1e-4)
    assert embedder.requests[0] == {"model": "e", "input": ["abc", "abd"]}
    for answer, reason in [
        (embeddings([1.0]), "did not answer two embeddings"),
        (embeddings([1.0], [1.0, 2.0]), "different lengths"),
        (embeddings([0.0], [1.0]), "without a direction"),
    ]:
        embedder.answer = answer
        found = await verdict(grader, "abc", reference="abd")
        assert (found.value, reason in (found.error or "")) == (None, True)
    await grader.aclose()


async def test_cosine_without_a_model_is_unscored_and_says_what_to_set() -> None:
    found = await verdict(make_grader(**COSINE), "a", reference="b")
    assert (found.value, "set embedding_model" in (found.error or "")) == (None, True)

"""Every grader that the OpenAI SDK's types allow is taken as it stands."""

from itertools import product
from typing import Any

import pytest
from openai.types.graders import (
    LabelModelGrader,
    MultiGrader,
    PythonGrader,
    ScoreModelGrader,
    StringCheckGrader,
    TextSimilarityGrader,
)

from evaluators.definition import parse
from everlearn.errors import ConfigError
from tests.evaluators.graders import make_grader, verdict

pytestmark = pytest.mark.anyio
TEXT = "Rate {{sample.output_text}}"
CONTENTS: list[Any] = [
    TEXT,
    {"type": "input_text", "text": TEXT},
    {"type": "output_text", "text": TEXT},
    [TEXT],
    [{"type": "input_text", "text": "Rate"}, {"type": "output_text", "text": TEXT}, "now"],
]
METRICS = [
    "cosine", "fuzzy_match", "bleu", "gleu", "meteor", "rouge_1", "rouge_2", "rouge_3", "rouge_4",
    "rouge_5", "rouge_l",
]  # fmt: skip
OPERATIONS = ("eq", "ne", "like", "ilike")
CHECK = {"type": "string_check", "name": "c", "input": "a", "reference": "a", "operation": "eq"}
SAMPLING = {
    "max_completions_tokens": 9, "temperature": 0, "seed": 1, "top_p": 1.0,
    "reasoning_effort": "minimal",
}  # fmt: skip


def _messages() -> list[list[dict[str, Any]]]:
    kinds = product(
        CONTENTS, ("user", "system", "developer", "assistant"), ({}, {"type": "message"})
    )
    return [[{"role": role, "content": content, **more}] for content, role, more in kinds]


def _graders() -> list[tuple[Any, dict[str, Any]]]:
    score = {"type": "score_model", "name": "s", "model": "m"}
    label = {
        "type": "label_model", "name": "l", "model": "m", "labels": ["a", "b"],
        "passing_labels": ["a"],
    }  # fmt: skip
    similar = {"type": "text_similarity", "name": "t", "input": "a", "reference": "b"}
    python = {"type": "python", "name": "p", "source": "def grade(sample, item):\n    return 1.0"}
    return [
        *((ScoreModelGrader, {**score, "input": each}) for each in _messages()),
        *((LabelModelGrader, {**label, "input": each}) for each in _messages()),
        (ScoreModelGrader, {**score, "input": _messages()[0], "range": None}),
        (ScoreModelGrader, {**score, "input": _messages()[0], "sampling_params": None}),
        (ScoreModelGrader, {**score, "input": _messages()[0], "sampling_params": SAMPLING}),
        (ScoreModelGrader, {**score, "input": _messages()[0], "range": [1, 5]}),
        *((TextSimilarityGrader, {**similar, "evaluation_metric": each}) for each in METRICS),
        *((StringCheckGrader, {**CHECK, "operation": each}) for each in OPERATIONS),
        (StringCheckGrader, {**CHECK, "name": "any name: 1/2 `?` ü"}),
        (PythonGrader, python),
        (PythonGrader, {**python, "image_tag": None}),
        (PythonGrader, {**python, "image_tag": "2025-05-08"}),
        (MultiGrader, {"type": "multi", "name": "m", "calculate_output": "c", "graders": CHECK}),
    ]  # fmt: skip


@pytest.mark.parametrize(("sdk", "grader"), _graders())
def test_what_the_sdk_takes_compiles(sdk: Any, grader: dict[str, Any]) -> None:
    sdk.model_validate(grader)
    make_grader(**grader)
    # and as the SDK itself writes it
    make_grader(**sdk.model_validate(grader).model_dump(mode="json"))


@pytest.mark.parametrize("kind", ["text_similarity", "score_model", "python"])
def test_a_pass_threshold_is_taken(kind: str) -> None:
    spec = next(each for _, each in _graders() if each["type"] == kind)
    assert parse({**spec, "pass_threshold": 0.5}).model_dump()["pass_threshold"] == 0.5


@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_image", "image_url": "https://example.com/x.png", "detail": "low"},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(part: dict[str, Any]) -> None:
    spec: dict[str, Any] = {"type": "score_model", "name": "s", "model": "m"}
    ScoreModelGrader.model_validate({**spec, "input": [{"role": "user", "content": part}]})
    with pytest.raises(ConfigError, match=f"{part['type']}: only text is shown to a judge"):
        make_grader(**spec, input=[{"role": "user", "content": ["Rate", part]}])


async def test_multi_reads_names_of_any_characters() -> None:
    grader = make_grader(
        type="multi",
        calculate_output="`exact match` / 2 + other",
        graders={"exact match": CHECK, "other": {**CHECK, "operation": "ne"}},
    )
    found = await verdict(grader, "x")
    assert (found.value, found.sub_scores) == (0.5, {"exact match": 1.0, "other": 0.0})


async def test_a_single_part_is_one_text() -> None:
    from evaluators.graders.model import _text
    from everlearn.graders import LabelModel, ScoreModel

    for content in CONTENTS:
        spec = parse(
            {"type": "score_model", "name": "s", "model": "m",
             "input": [{"role": "user", "content": content}]}
        )  # fmt: skip
        assert isinstance(spec, ScoreModel | LabelModel)
        assert TEXT in _text(spec, 0, spec.input[0])

"""What a judge goes by beside its own words: told to it, and part of its version."""

import json
from pathlib import Path
from typing import Any

import pytest

from evaluators.definition import parse
from evaluators.judge.guidelines import MAX_CHARACTERS
from everlearn.errors import ConfigError
from tests.builders import make_service
from tests.evaluators.graders import make_grader, verdict
from tests.evaluators.judge_server import judge_server, says

MESSAGES = [{"role": "user", "content": "{{ sample.output_text }}"}]
SCORE: dict[str, Any] = {"type": "score_model", "model": "m", "input": MESSAGES}
LABEL: dict[str, Any] = {
    **SCORE,
    "type": "label_model",
    "labels": ["a", "b"],
    "passing_labels": ["a"],
}
RUBRIC: dict[str, Any] = {
    "type": "rubric_model", "model": "m", "criteria": [{"name": "kind", "text": "it is kind"}],
}  # fmt: skip
JUDGES = {"score": SCORE, "label": LABEL, "rubric": RUBRIC}


@pytest.mark.anyio
@pytest.mark.parametrize(("name", "said"), [("score", "1"), ("label", "a"), ("rubric", "yes")])
async def test_they_are_told_beside_its_own_words(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "own.txt").write_text("Short CRITERION answers are right. [sample.output_text]\n")
    with judge_server() as server:
        server.answer = says(said)
        service = make_service(
            tmp_path, upstreams={"j": {"base_url": server.address}}, default_upstream="j"
        )
        grader = make_grader(tmp_path, service, **JUDGES[name], guidelines="own.txt")
        assert (await verdict(grader, "fine", prompt="how?")).value == 1.0
        await grader.aclose()
    told = server.requests[0]["messages"][0]["content"]
    own = "Guidelines:\nShort CRITERION answers are right. [sample.output_text]\n\n"
    assert own in told
    assert told.index("Guidelines:") < told.index("Answer with one JSON object")


@pytest.mark.parametrize("name", JUDGES)
def test_its_version_is_that_of_the_words(tmp_path: Path, name: str) -> None:
    file = tmp_path / "own.txt"

    def version(**more: Any) -> str:
        return make_grader(tmp_path, **JUDGES[name], **more).version

    file.write_text("one")
    first = version(guidelines="own.txt")
    file.write_text("two\n")
    second = version(guidelines="own.txt")
    file.write_text("two")
    assert len({version(), first, second}) == 3
    assert version(guidelines="own.txt") == second, "white space at the end is no other version"


@pytest.mark.parametrize("name", JUDGES)
def test_a_judge_without_them_is_the_version_it_was_before_there_were_any(name: str) -> None:
    assert "guidelines" not in json.dumps(parse({"name": "n", **JUDGES[name]}).model_dump())


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "No such file"),
        (b" \n", "0 characters; 1 to"),
        (b"x" * (MAX_CHARACTERS + 1), f"{MAX_CHARACTERS + 1} characters; 1 to"),
        (b"\xff", "not UTF-8 text at byte 0"),
        (b"like {{ item.reference }}", "nothing is filled in"),
    ],
)
def test_a_file_that_cannot_be_told_is_no_judge(
    tmp_path: Path, content: bytes | None, problem: str
) -> None:
    if content is not None:
        (tmp_path / "own.txt").write_bytes(content)
    with pytest.raises(ConfigError, match=r"grader grader: guidelines = 'own\.txt'") as refused:
        make_grader(tmp_path, **SCORE, guidelines="own.txt")
    assert problem in str(refused.value)

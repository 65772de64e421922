"""Judge models over real HTTP: a verdict is read strictly, everything else is no score."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evaluators.types import Score
from everlearn.config import Service
from everlearn.errors import ConfigError
from tests.builders import make_service
from tests.evaluators.graders import make_grader, verdict
from tests.evaluators.judge_server import Answer, JudgeServer, answers, judge_server, says
from tests.evaluators.test_verdicts import FORGERIES
from tests.ports import find_free_port

pytestmark = pytest.mark.anyio
INPUT = [
    {"role": "system", "content": "You judge SQL."},
    {"role": "user", "content": "{{ item.prompt }}: {{ sample.output_text }}"},
]


@pytest.fixture(scope="module")
def server() -> Iterator[JudgeServer]:
    with judge_server() as running:
        yield running


@pytest.fixture
def judge(server: JudgeServer) -> JudgeServer:
    server.requests.clear()
    return server


def service(folder: Path, address: str, **fields: Any) -> Service:
    upstream = {"base_url": address, "kind": "openai", **fields}
    return make_service(folder, upstreams={"judge": upstream}, default_upstream="judge")


async def ask(folder: Path, address: str, **spec: Any) -> Score:
    defaults = {"type": "score_model", "model": "judge-1", "input": INPUT, "timeout_seconds": 5}
    grader = make_grader(folder, service(folder, address), **{**defaults, **spec})
    try:
        return await verdict(grader, "SELECT 1", prompt="how many?")
    finally:
        await grader.aclose()


@pytest.mark.parametrize(
    ("content", "value"),
    [
        ('{"score": 0.5, "reason": "half"}', 0.5),
        ('{"reason": "none", "score": 0}', 0.0),
        ("1", 1.0),
        (" 0.25\n", 0.25),
        ('```json\n{"score": 1}\n```', 1.0),
        ('``` JSON\r\n{"score": 1}```', 1.0),
        ('```{"score": 0.5}\n\n```\n', 0.5),
        ('<think>\nis {"score": 0} fair?\n</think>\n{"score": 1}', 1.0),
        ('so {"score": 0}?\n</think>\n\n{"score": 1}', 1.0),
    ],
)
async def test_a_plain_verdict_is_a_score(
    tmp_path: Path, judge: JudgeServer, content: str, value: float
) -> None:
    judge.answer = says(content)
    found = await ask(tmp_path, judge.address)
    assert found.value == value
    assert found.error is None
    assert found.cost["prompt_tokens"] == 30
    assert found.cost["seconds"] > 0


@pytest.mark.parametrize(
    "content",
    ["good", "", "0.5 points", "1.5", "-0.1", "NaN", '{"score": NaN}', '{"score": 1e999}',
     '{"score": true}', '{"score": null}', '{"value": 1}', "[1]", '{"score": 2}', "1/2", "100%",
     '{"score": 1} {"score": 0}', '{"score": 1, "score": 0}', '{"score": 1, "Score": 0}',
     "Score: 1\nScore: 0", "I would say 1", '{"score": [1]}', '{"score": ' + "9" * 400 + "}",
     '<think>{"score": 1}', '<think>so</think> I say {"score": 1}',
     'he wrote </think>{"score": 1} and </think>{"score": 1}', "inf", "१"],
)  # fmt: skip
async def test_anything_else_is_unscored(tmp_path: Path, judge: JudgeServer, content: str) -> None:
    judge.answer = says(content)
    found = await ask(tmp_path, judge.address)
    assert found.value is None
    assert "judge" in (found.error or "")


def ends(reason: str, **choice: Any) -> Answer:
    """Says 1, the beginning of 1.0 as of 10, and ends for that reason."""
    said = {"message": {"content": "1"}, "finish_reason": reason, **choice}
    return answers(200, json.dumps({"choices": [said]}))


async def test_the_text_among_parts_is_the_verdict(tmp_path: Path, judge: JudgeServer) -> None:
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "a 1?"}]}
    judge.answer = says(
        [thought, {"type": "text", "text": '{"score": '}, {"type": "text", "text": "0.5}"}]
    )
    assert (await ask(tmp_path, judge.address)).value == 0.5


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (answers(500), "answered 500, 3 times"),
        (answers(429), "answered 429, 3 times"),
        (answers(401), "answered 401"),
        (answers(200, "<html>"), "did not answer JSON"),
        (answers(200, "[]"), "did not answer a completion"),
        (answers(200, '{"choices": []}'), "did not answer a completion"),
        (answers(200, '{"choices": [null]}'), "did not answer a completion"),
        (says(None), "no text"),
        (says(None, refusal="I cannot judge that"), "refused: I cannot judge that"),
        (says([{"type": "thinking", "thinking": [{"type": "text", "text": "1"}]}]), "no text"),
        (ends("length"), "is incomplete: finish_reason 'length'"),
        (ends("content_filter"), "is filtered: finish_reason 'content_filter'"),
        (ends("stop", error={"message": "overloaded"}), "is upstream_error: overloaded"),
    ],
)
async def test_a_server_that_fails_is_unscored(
    tmp_path: Path, judge: JudgeServer, answer: Any, error: str
) -> None:
    judge.answer = answer
    found = await ask(tmp_path, judge.address)
    assert found.value is None
    assert error in (found.error or "")


async def test_a_judge_that_is_down_half_the_time_costs_no_score(
    tmp_path: Path, judge: JudgeServer
) -> None:
    def every_other(body: dict[str, Any]) -> Any:
        down = len(judge.requests) % 2 == 1
        return (answers(503) if down else says('{"score": 0.5}'))(body)

    judge.answer = every_other
    assert [(await ask(tmp_path, judge.address)).value for _ in range(2)] == [0.5, 0.5]
    assert len(judge.requests) == 4


async def test_the_servers_own_words_are_in_the_reason(tmp_path: Path, judge: JudgeServer) -> None:
    judge.answer = answers(400, '{"error": {"message": "context length is 8"}}')
    found = await ask(tmp_path, judge.address)
    assert found.error == "the judge answered 400: context length is 8"


async def test_a_server_that_refuses_the_schema_is_asked_without_it_and_that_is_remembered(
    tmp_path: Path, judge: JudgeServer
) -> None:
    def refuses(what: str) -> Any:
        def answer(body: dict[str, Any]) -> Any:
            if what in str(body.get("response_format")):
                return answers(400, '{"error": {"message": "no such response_format"}}')(body)
            return says('{"score": 0.5, "reason": "so"}')(body)

        return answer

    for what, model, asked in (("json_schema", "plain", 3), ("minimum", "boundless", 2)):
        judge.requests.clear()
        judge.answer = refuses(what)
        for _ in range(2):
            assert (await ask(tmp_path, judge.address, model=model)).value == 0.5
        assert len(judge.requests) == asked + 1
    schema = judge.requests[-1]["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["score"] == {"type": "number"}


async def test_a_server_that_recovers_is_asked_again(tmp_path: Path, judge: JudgeServer) -> None:
    judge.answer = lambda body: (answers(503) if len(judge.requests) < 3 else says("1"))(body)
    assert (await ask(tmp_path, judge.address)).value == 1.0
    assert len(judge.requests) == 3


async def test_a_server_that_is_too_slow_is_unscored_in_time(
    tmp_path: Path, judge: JudgeServer
) -> None:
    def slow(body: dict[str, Any]) -> Any:
        time.sleep(3)
        return says("1")(body)

    judge.answer = slow
    started = time.monotonic()
    found = await ask(tmp_path, judge.address, timeout_seconds=0.3)
    assert found.value is None
    assert "in 0.3 s" in (found.error or "")
    assert time.monotonic() - started < 2.7


async def test_nobody_at_the_address_is_unscored(tmp_path: Path) -> None:
    found = await ask(tmp_path, f"http://127.0.0.1:{find_free_port()}/v1")
    assert found.value is None
    assert "could not be reached: ConnectError, 3 times" in (found.error or "")


async def test_the_judge_is_asked_with_the_rendered_messages_and_the_key(
    tmp_path: Path, judge: JudgeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge.answer = says("7")
    monkeypatch.setenv("JUDGE_KEY", "sk-test")
    grader = make_grader(
        tmp_path, service(tmp_path, judge.address, api_key_env="JUDGE_KEY"), type="score_model",
        model="judge-1", input=INPUT, range=[0, 10],
        sampling_params={"temperature": 0, "max_completions_tokens": 50},
    )  # fmt: skip
    assert (await verdict(grader, "SELECT 1", prompt="how many?")).value == 7.0
    await grader.aclose()
    [body] = judge.requests
    assert judge.headers["authorization"] == "Bearer sk-test"
    assert (body["model"], body["temperature"], body["max_completion_tokens"]) == ("judge-1", 0, 50)
    assert body["messages"][0] == INPUT[0]
    asked, fence, line, last, *told = (
        body["messages"][1]["content"].replace("\n\n", "\n").split("\n")
    )
    assert asked == "[item.prompt]: [sample.output_text]"
    assert (fence, json.loads(line)) == (
        last, {"item.prompt": "how many?", "sample.output_text": "SELECT 1"}
    )  # fmt: skip
    assert "is never followed" in told[0]
    assert "from 0 to 10" in "".join(told)
    schema = body["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["score"] == {"type": "number", "minimum": 0.0, "maximum": 10.0}


@pytest.mark.parametrize("kind", ["score_model", "label_model"])
@pytest.mark.parametrize("text", FORGERIES)
async def test_what_users_wrote_changes_nothing_around_it(
    tmp_path: Path, judge: JudgeServer, kind: str, text: str
) -> None:
    """A judge that follows nothing but what stands outside the data is told the same of any."""
    labels = {} if kind == "score_model" else {"labels": ["0", "1"], "passing_labels": ["1"]}
    judge.answer = says("0")
    grader = make_grader(
        tmp_path, service(tmp_path, judge.address), type=kind, model="m", input=INPUT, **labels
    )
    for prompt, answer in ((text, "4"), ("2 + 2?", text), ("2 + 2?", "4")):
        assert (await verdict(grader, answer, prompt=prompt)).value == 0.0
    await grader.aclose()
    outside = set()
    for body in judge.requests:
        [system, user] = body["messages"]
        named, _, fence, line, last, *told = user["content"].splitlines()
        assert fence == last
        assert set(json.loads(line)) == {"item.prompt", "sample.output_text"}
        assert not any(mark in line for mark in ("<|", "[INST", "</s>", "<start_of", "<end_of"))
        outside.add(json.dumps([system, named, fence[:6], told]))
    assert len(judge.requests) == 3
    assert len(outside) == 1


async def test_a_judge_that_is_shown_nothing_of_the_item_is_told_of_no_data(
    tmp_path: Path, judge: JudgeServer
) -> None:
    judge.answer = says("1")
    await ask(tmp_path, judge.address, input=[{"role": "user", "content": "Say 1."}])
    assert "=====" not in judge.requests[0]["messages"][0]["content"]
    assert "data" not in judge.requests[0]["messages"][0]["content"]


async def test_a_key_that_is_not_set_is_said_without_asking(
    tmp_path: Path, judge: JudgeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    config = service(tmp_path, judge.address, api_key_env="JUDGE_KEY")
    grader = make_grader(tmp_path, config, type="score_model", model="m", input=INPUT)
    assert (await verdict(grader, "x", prompt="p")).error == "$JUDGE_KEY is not set"
    assert judge.requests == []


@pytest.mark.parametrize(
    ("content", "value", "label"),
    [("good", 1.0, "good"), ('{"label": "bad", "reason": "no"}', 0.0, "bad"),
     ("Good", 1.0, "good"), ("**Bad**.", 0.0, "bad"), ("[[good]]", 1.0, "good"),
     ('{"label": "GOOD"}', 1.0, "good"), ("He was rude.\nVerdict: bad", 0.0, "bad"),
     ('{"label": "fine"}', None, None), ("good bad", None, None), ("not good", None, None)],
)  # fmt: skip
async def test_a_label_counts_only_when_it_is_one_of_them(
    tmp_path: Path, judge: JudgeServer, content: str, value: float | None, label: str | None
) -> None:
    judge.answer = says(content)
    found = await ask(
        tmp_path, judge.address, type="label_model", labels=["good", "bad"], passing_labels=["good"]
    )
    assert (found.value, found.label) == (value, label)
    assert (found.error is None) == (value is not None)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"type": "score_model", "input": []}, "a judge needs a message"),
        (
            {
                "type": "score_model",
                "input": [{"role": "user", "content": {"type": "input_image", "image_url": "x"}}],
            },
            "input_image: only text is shown to a judge",
        ),
        ({"type": "score_model", "input": INPUT, "range": [1, 0]}, "low is below high"),
        ({"type": "score_model", "input": INPUT, "upstream": "nobody"}, "not an upstream"),
        (
            {"type": "label_model", "input": INPUT, "labels": ["a"], "passing_labels": ["b"]},
            "passing_labels",
        ),
    ],
)
async def test_a_judge_that_makes_no_sense_does_not_compile(
    tmp_path: Path, spec: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        make_grader(tmp_path, service(tmp_path, "http://127.0.0.1:1/v1"), model="m", **spec)

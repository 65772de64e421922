"""Answers that must have a form: JSON by schema, tool calls, penalties; and a queue with an end."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import torch
from openai import OpenAI

from serving.local.cache import KEPT_BYTES, RowCache
from serving.local.sampling import Sampler, Sampling
from serving.local.shape import BadGrammar, Grammars, Penalties, Shape
from serving.local.tools import Reader, call_schema
from tests.serving.conftest import Server, running
from tests.serving.test_local_http import chat, events
from tests.serving.tiny import make_tokenizer

TICKET = {
    "type": "object",
    "properties": {
        "queue": {"enum": ["amber", "birch"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
        "urgent": {"type": "boolean"},
    },
    "required": ["queue", "count", "urgent"],
    "additionalProperties": False,
}
LIST = {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 3}
CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Graz"]}},
    "required": ["city"],
    "additionalProperties": False,
}
NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": CITY}},
    {"type": "function", "function": {"name": "stop", "parameters": NOTHING}},
]


def form(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}


@pytest.mark.parametrize("schema", [TICKET, LIST])
@pytest.mark.parametrize("model", ["base", "first"])
def test_a_random_model_answers_by_the_schema(
    shared_server: Server, model: str, schema: dict[str, Any]
) -> None:
    """Its own words are noise, so only the grammar can have made this JSON."""
    answer = chat(
        shared_server, model=model, response_format=form(schema), temperature=1, n=8, seed=5,
        max_tokens=200, logprobs=True,
    ).json()  # fmt: skip
    ended = [choice for choice in answer["choices"] if choice["finish_reason"] == "stop"]
    assert len(ended) >= 6
    for choice in ended:
        jsonschema.validate(json.loads(choice["message"]["content"]), schema)
        # The model's own view: what the grammar forced was unlikely to it.
        assert all(entry["logprob"] < 0 for entry in choice["logprobs"]["content"])
    assert len({choice["message"]["content"] for choice in ended}) > 1


def test_rows_with_and_without_a_form_share_a_batch(shared_server: Server) -> None:
    free = chat(shared_server).json()["choices"][0]["message"]["content"]
    bodies = [{}, {"response_format": form(TICKET), "max_tokens": 200}, {}]
    with OpenAI(base_url=shared_server.address, api_key="none") as client:
        assert client.models.list().data
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda body: chat(shared_server, **body).json(), bodies))
    texts = [answer["choices"][0]["message"]["content"] for answer in found]
    assert texts[0] == texts[2] == free
    jsonschema.validate(json.loads(texts[1]), TICKET)


def test_any_object_will_do_where_no_schema_is_given(shared_server: Server) -> None:
    kind = {"type": "json_object"}
    answer = chat(shared_server, response_format=kind, max_tokens=30).json()["choices"][0]
    assert answer["message"]["content"].lstrip().startswith("{")


@pytest.mark.parametrize(
    ("schema", "reason"),
    [({"type": "blah"}, "blah"), ({"minimum": "three"}, ""), ({"$ref": "#/x"}, "")],
)
def test_a_schema_that_is_none_is_refused_with_the_reason(
    shared_server: Server, schema: dict[str, Any], reason: str
) -> None:
    answer = chat(shared_server, response_format=form(schema))
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == "response_format"
    assert reason in error["message"]


def test_a_grammar_ends_the_answer_even_where_ends_are_ignored(shared_server: Server) -> None:
    body = {"response_format": form(LIST), "ignore_eos": True, "max_tokens": 100}
    answer = chat(shared_server, **body).json()["choices"][0]
    assert answer["finish_reason"] == "stop"
    jsonschema.validate(json.loads(answer["message"]["content"]), LIST)


@pytest.mark.parametrize(
    ("choice", "names", "ending"),
    [
        ("required", {"weather", "stop"}, "tool_calls"),
        ({"type": "function", "function": {"name": "weather"}}, {"weather"}, "stop"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_forced_call_is_one_of_the_tools(
    shared_server: Server, choice: Any, names: set[str], ending: str, stream: bool
) -> None:
    body = {"tools": TOOLS, "tool_choice": choice, "max_tokens": 180, "temperature": 1, "seed": 3}
    with OpenAI(base_url=shared_server.address, api_key="none") as made:
        client: Any = made
        options = {"model": "base", "messages": [{"role": "user", "content": "x"}], **body}
        if stream:
            chunks = list(client.chat.completions.create(**options, stream=True))
            deltas = [chunk.choices[0].delta for chunk in chunks]
            calls = [call for delta in deltas for call in delta.tool_calls or ()]
            reason = chunks[-1].choices[0].finish_reason
            assert "".join(delta.content or "" for delta in deltas) == ""
        else:
            whole = client.chat.completions.create(**options).choices[0]
            calls, reason = whole.message.tool_calls, whole.finish_reason
            assert whole.message.content == ""
    (call,) = calls
    assert call.function.name in names
    arguments = json.loads(call.function.arguments)
    if call.function.name == "weather":
        jsonschema.validate(arguments, CITY)
    assert reason == ending


def test_a_tool_that_is_not_there_cannot_be_chosen(shared_server: Server) -> None:
    choice = {"type": "function", "function": {"name": "nobody"}}
    answer = chat(shared_server, tools=TOOLS, tool_choice=choice)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "tool_choice"
    assert "does not match any" in answer.json()["error"]["message"]


CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
@pytest.mark.parametrize(
    ("text", "shown", "names"),
    [
        ("Hello <b>x</b>", "Hello <b>x</b>", []),
        (CALL, "", ["weather"]),
        (f"Let me see.{CALL}", "Let me see.", ["weather"]),
        (f"{CALL}\n{CALL}", "", ["weather", "weather"]),
        ("<tool_call>no json</tool_call> ok", "<tool_call>no json</tool_call> ok", []),
        ('<tool_call>{"name": "stop"}', "", ["stop"]),
        ("<tool_call>[1]</tool_call>", "<tool_call>[1]</tool_call>", []),
        ("a < b and <tool", "a < b and <tool", []),
    ],
)
def test_calls_are_read_out_of_text_however_it_is_cut(
    text: str, shown: str, names: list[str], size: int
) -> None:
    reader, seen = Reader(forced=False), ""
    for start in range(0, len(text), size):
        seen += reader.feed(text[start : start + size], ended=start + size >= len(text))
    assert seen == shown
    assert [call.name for call in reader.calls] == names
    assert all(isinstance(json.loads(call.arguments), dict) for call in reader.calls)


def test_a_forced_answer_cut_short_is_shown_as_it_is() -> None:
    reader = Reader(forced=True)
    assert reader.feed('{"name": "wea', ended=True) == '{"name": "wea'
    assert reader.calls == []


def test_the_schema_of_a_call_holds_each_tool_to_its_own_arguments() -> None:
    both = call_schema(TOOLS, None)
    jsonschema.validate({"name": "stop", "arguments": {}}, both)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"name": "weather", "arguments": {"city": "Oslo"}}, both)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"name": "stop", "arguments": {}}, call_schema(TOOLS, "weather"))


def bent(penalties: Penalties, *said: int, prompt: tuple[int, ...] = (3,)) -> list[float]:
    shape = Shape(penalties, prompt, None)
    shape.apply(torch.zeros(4))
    for token in said:
        shape.take(token)
    logits = torch.tensor([2.0, -2.0, 1.0, 1.0])
    shape.apply(logits)
    return logits.tolist()


def test_penalties_are_the_formulas_of_the_api() -> None:
    assert bent(Penalties(presence=0.5), 0, 0, 1) == [1.5, -2.5, 1.0, 1.0]
    assert bent(Penalties(frequency=0.5), 0, 0, 1) == [1.0, -2.5, 1.0, 1.0]
    # On the prompt's tokens too, and always away from being drawn.
    assert bent(Penalties(repetition=2.0), 0, 1) == [1.0, -4.0, 1.0, 0.5]


def test_a_penalised_row_leaves_the_others_and_the_logprobs_alone() -> None:
    logits = torch.tensor([[2.0, 1.9, 0.0, 0.0]] * 2)
    rows = [Sampling(9, temperature=0.0, logprobs=0)] * 2
    sampler = Sampler(rows, [None] * 2, [Shape(Penalties(presence=1.0), (3,), None), None])
    drawn = [[each.token_id for each in sampler.draw(logits)] for _ in range(3)]
    assert drawn == [[0, 0], [1, 0], [0, 0]]
    assert sampler.draw(logits)[0].logprob == pytest.approx(logits[0].log_softmax(-1)[0].item())


def test_a_penalty_keeps_a_model_from_saying_the_same(shared_server: Server) -> None:
    def kinds(**more: Any) -> int:
        answer = chat(shared_server, max_tokens=60, return_token_ids=True, **more).json()
        return len(set(answer["choices"][0]["token_ids"]))

    assert kinds(frequency_penalty=2, presence_penalty=2) > kinds()
    assert kinds(repetition_penalty=3.0) > kinds()


def test_an_answer_begins_with_its_own_first_character(shared_server: Server) -> None:
    """The end of the prompt's last character was shown before it."""
    for end in ("é", "日", "🙂", "🙂🙂", "x"):
        messages = [{"role": "user", "content": end}]
        answer = chat(
            shared_server, messages=messages, response_format=form(LIST), max_tokens=90
        ).json()  # fmt: skip
        assert answer["choices"][0]["message"]["content"][0] == "["


def test_a_grammar_that_no_token_fits_is_never_started() -> None:
    tokenizer = make_tokenizer()
    grammars = Grammars(tokenizer, len(tokenizer), frozenset({tokenizer.eos_token_id}))
    with pytest.raises(BadGrammar):
        grammars.check({"type": "string", "pattern": "("})


def test_a_full_queue_is_answered_503_and_empties_again(
    start: Callable[..., Server],
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    server = start(max_batch=1, max_waiting=2)
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda _: chat(server, max_tokens=100, ignore_eos=True), range(12)))
    codes = [answer.status_code for answer in found]
    assert set(codes) == {200, 503}
    assert codes.count(200) >= 3
    refused = next(answer for answer in found if answer.status_code == 503)
    assert refused.headers["retry-after"] == "1"
    assert "answers are waiting" in refused.json()["error"]["message"]
    assert chat(server).status_code == 200
    assert chat(server, stream=True).status_code == 200


def test_cells_are_for_what_runs_and_a_long_prompt_gives_them_back() -> None:
    cache = RowCache(max_rows=64, max_columns=8192)
    long = torch.zeros(1, 2, 2000, 64)
    for layer in range(40):
        cache.begin_prefill(0)
        cache.update(long, long, layer)

    def held() -> int:
        return sum(keys.nbytes + values.nbytes for keys, values in cache._stores)

    assert KEPT_BYTES < held() <= 4 * 40 * 2 * long.nbytes
    cache.release()
    assert held() == 0
    short = torch.ones(2, 2, 10, 64)
    cache.begin_prefill(0)
    assert torch.equal(cache.update(short, short, 0)[0], short)
    cache.release()
    assert held() > 0


def test_an_answer_after_a_long_one_is_the_same(base: Path) -> None:
    with running(base) as server:
        before = chat(server, max_tokens=30).json()["choices"][0]["message"]
        long = [{"role": "user", "content": "sum " * 150}]
        chat(server, messages=long, max_tokens=5)
        assert chat(server, max_tokens=30).json()["choices"][0]["message"] == before
        chunks = events(chat(server, max_tokens=30, stream=True))
        deltas = [c["choices"][0]["delta"].get("content", "") for c in chunks]
        assert "".join(deltas) == before["content"]
        assert httpx.get(f"{server.root}/health").status_code == 200

"""The routes as clients see them: the official SDK, streams, stop rules, errors."""

import json
from typing import Any

import httpx
import pytest
from openai import OpenAI

from tests.serving.conftest import Server, wait_until

MESSAGES = [{"role": "user", "content": "wie viele Aufträge? 日本語 🙂"}]


@pytest.fixture(scope="module")
def client(shared_server: Server) -> Any:
    """Typed Any: vLLM's extra fields are no part of the SDK's types."""
    with OpenAI(base_url=shared_server.address, api_key="none", max_retries=0) as made:
        yield made


def post(server: Server, route: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{server.address}{route}", json=body, timeout=60)


def chat(server: Server, **more: Any) -> httpx.Response:
    body = {"model": "base", "messages": MESSAGES, "temperature": 0, "max_tokens": 20}
    return post(server, "/chat/completions", **{**body, **more})


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    """The chunks of a stream; it must end with [DONE]."""
    lines = [line for line in answer.text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


@pytest.mark.parametrize("model", ["base", "first"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_stream_deltas_add_up_to_the_whole_answer(
    client: Any, model: str, temperature: float
) -> None:
    options: dict[str, Any] = {
        "model": model,
        "messages": MESSAGES,
        "max_tokens": 60,
        "temperature": temperature,
        "seed": 11,
    }
    whole = client.chat.completions.create(**options)
    pieces = list(client.chat.completions.create(**options, stream=True))
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces)
    assert text == whole.choices[0].message.content
    assert any(ord(character) > 127 for character in text), "characters split over tokens"
    assert pieces[0].choices[0].delta.role == "assistant"
    assert pieces[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert len({piece.id for piece in pieces}) == 1


def test_a_stream_carries_the_token_ids_logprobs_and_usage_of_the_whole(
    shared_server: Server,
) -> None:
    options = {"logprobs": True, "top_logprobs": 2, "return_token_ids": True}
    whole = chat(shared_server, **options).json()
    usage = {"include_usage": True}
    chunks = events(chat(shared_server, **options, stream=True, stream_options=usage))
    assert chunks[0]["prompt_token_ids"] == whole["prompt_token_ids"]
    choices = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
    choice = whole["choices"][0]
    assert [t for c in choices for t in c.get("token_ids", [])] == choice["token_ids"]
    entries = [e for c in choices if c["logprobs"] for e in c["logprobs"]["content"]]
    assert entries == choice["logprobs"]["content"]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == whole["usage"]
    assert whole["usage"]["completion_tokens"] == 20
    assert whole["usage"]["prompt_tokens"] == len(whole["prompt_token_ids"])


def test_text_completions_stream_and_whole_agree_for_several_prompts(client: Any) -> None:
    options: dict[str, Any] = {
        "model": "second",
        "prompt": ["select ", "日本"],
        "n": 2,
        "max_tokens": 15,
        "temperature": 0,
        "logprobs": 2,
    }
    whole = client.completions.create(**options)
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    streamed = ["", "", "", ""]
    for piece in client.completions.create(**options, stream=True):
        streamed[piece.choices[0].index] += piece.choices[0].text
    assert streamed == [choice.text for choice in whole.choices]
    assert streamed[0] == streamed[1]
    assert streamed[0] != streamed[2]
    assert len(whole.choices[0].logprobs.token_logprobs) == 15


def test_a_prompt_may_be_token_ids(shared_server: Server) -> None:
    tokens = httpx.post(
        f"{shared_server.root}/tokenize", json={"prompt": "select count", "model": "base"}
    ).json()["tokens"]
    options = {"model": "base", "temperature": 0, "return_token_ids": True}
    by_text = post(shared_server, "/completions", prompt="select count", **options).json()
    by_ids = post(shared_server, "/completions", prompt=tokens, **options).json()
    assert by_ids["choices"] == by_text["choices"]
    assert by_ids["choices"][0]["prompt_token_ids"] == tokens
    assert by_ids["usage"]["completion_tokens"] == 16


def test_tokenize_renders_messages_as_the_chat_route_does(shared_server: Server) -> None:
    asked = chat(shared_server, return_token_ids=True).json()
    answer = httpx.post(f"{shared_server.root}/tokenize", json={"messages": MESSAGES}).json()
    assert answer["tokens"] == asked["prompt_token_ids"]
    assert answer["count"] == len(answer["tokens"])


def test_an_answer_ends_before_a_stop_string(shared_server: Server) -> None:
    full = chat(shared_server).json()["choices"][0]["message"]["content"]
    stop = full[5:8]
    for stream in (False, True):
        answer = chat(shared_server, stop=["never said", stop], stream=stream)
        if stream:
            choices = [chunk["choices"][0] for chunk in events(answer)]
            text = "".join(choice["delta"].get("content", "") for choice in choices)
            last = choices[-1]
        else:
            last = answer.json()["choices"][0]
            text = last["message"]["content"]
        assert text == full[: full.index(stop)]
        assert (last["finish_reason"], last["stop_reason"]) == ("stop", stop)


def test_an_answer_ends_with_a_stop_token_and_names_it(shared_server: Server) -> None:
    full = chat(shared_server, return_token_ids=True).json()["choices"][0]["token_ids"]
    answer = chat(shared_server, stop_token_ids=[full[4]], return_token_ids=True).json()
    choice = answer["choices"][0]
    assert choice["token_ids"] == full[: full.index(full[4]) + 1]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", full[4])


def test_max_completion_tokens_counts_and_the_context_is_the_limit(shared_server: Server) -> None:
    short = chat(shared_server, max_tokens=None, max_completion_tokens=3).json()
    assert short["usage"]["completion_tokens"] == 3
    assert short["choices"][0]["finish_reason"] == "length"
    full = chat(shared_server, max_tokens=None, ignore_eos=True).json()
    assert full["usage"]["total_tokens"] == 256


def test_content_parts_are_joined_text(shared_server: Server) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    messages = [{"role": "user", "content": parts}]
    plain = [{"role": "user", "content": "one\ntwo"}]
    by_parts = chat(shared_server, messages=messages, return_token_ids=True).json()
    by_text = chat(shared_server, messages=plain, return_token_ids=True).json()
    assert by_parts["prompt_token_ids"] == by_text["prompt_token_ids"]


def test_without_a_model_the_base_model_answers(shared_server: Server) -> None:
    assert chat(shared_server, model=None).json()["model"] == "base"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": "x"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"content": "no role"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 99}, "top_logprobs"),
        ({"stop": ""}, "stop"),
        ({"frequency_penalty": 2.5}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"min_p": 0.5}, "min_p"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"messages": [{"role": "user", "content": "long " * 400}]}, "messages"),
    ],
)
def test_bad_requests_are_answered_400_and_name_the_field(
    shared_server: Server, change: dict[str, Any], param: str
) -> None:
    answer = chat(shared_server, **change)
    error = answer.json()["error"]
    assert answer.status_code == 400
    by_type = change["messages"] == "x" if "messages" in change else param == "response_format"
    kind = "Bad Request" if by_type else "BadRequestError"
    assert (error["type"], error["code"]) == (kind, 400)
    assert error["param"] == param
    assert error["message"]


def test_fields_that_ask_for_nothing_are_accepted(shared_server: Server) -> None:
    answer = chat(
        shared_server, frequency_penalty=0, user="u", metadata={"a": "b"}, unknown_field=1
    )
    assert answer.status_code == 200


def test_an_unknown_model_is_404(shared_server: Server) -> None:
    answer = chat(shared_server, model="nobody")
    assert answer.status_code == 404
    assert answer.json()["error"] == {
        "message": "The model `nobody` does not exist.",
        "type": "NotFoundError",
        "param": "model",
        "code": 404,
    }


def test_not_json_and_unknown_routes_have_an_error_body(shared_server: Server) -> None:
    broken = httpx.post(f"{shared_server.address}/chat/completions", content=b"{not json")
    assert broken.status_code == 400
    assert "JSON" in broken.json()["error"]["message"]
    unknown = httpx.get(f"{shared_server.address}/nothing")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, 404)


def test_models_are_listed_as_vllm_does(shared_server: Server, client: Any) -> None:
    cards = {
        card["id"]: card for card in httpx.get(f"{shared_server.address}/models").json()["data"]
    }
    assert set(cards) == {"base", "first", "second", "third"}
    assert cards["base"]["parent"] is None
    assert cards["base"]["max_model_len"] == 256
    assert cards["first"]["parent"] == "base"
    assert cards["first"]["root"].endswith("/first")
    assert next(model.id for model in client.models.list()) == "base"
    assert client.models.retrieve("first").id == "first"


def test_health_and_metrics_tell_what_was_done(shared_server: Server) -> None:
    chat(shared_server, stream=True)
    assert httpx.get(f"{shared_server.root}/health").status_code == 200
    wait_until(lambda: shared_server.engine.load.running == 0)
    lines = httpx.get(f"{shared_server.root}/metrics").text.splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    label = '{model_name="base"}'
    assert float(values[f"vllm:generation_tokens_total{label}"]) > 0
    assert float(values[f"vllm:prompt_tokens_total{label}"]) > 0
    assert float(values[f"vllm:time_to_first_token_seconds_count{label}"]) > 0
    assert float(values[f"vllm:num_requests_running{label}"]) == 0

"""One request cannot take the model server from the others: every field has a bound."""

import threading
import time
from typing import Any

import httpx
import pytest

from serving.local.errors import MAX_BODY_BYTES
from serving.local.protocol import MAX_ANSWERS, MAX_DEPTH, MAX_STOP_CHARACTERS, MAX_STOPS
from tests.serving.conftest import Server
from tests.serving.test_local_http import chat, post

TEMPLATE = "{% for a in range(10**9) %}{% endfor %}x"


def deep(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"chat_template": TEMPLATE}, "chat_template"),
        ({"chat_template_kwargs": {"chat_template": TEMPLATE}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": deep(MAX_DEPTH + 1)}, "chat_template_kwargs"),
        ({"n": MAX_ANSWERS + 1}, "n"),
        ({"max_tokens": 10**12}, "max_tokens"),
        ({"max_completion_tokens": 10**12}, "max_completion_tokens"),
        ({"logprobs": True, "top_logprobs": 10**6}, "top_logprobs"),
        ({"temperature": 1e300}, "temperature"),
        ({"top_k": 10**12}, "top_k"),
        ({"repetition_penalty": 1e300}, "repetition_penalty"),
        ({"stop": ["x"] * (MAX_STOPS + 1)}, "stop"),
        ({"stop": "x" * (MAX_STOP_CHARACTERS + 1)}, "stop"),
        ({"stop_token_ids": list(range(1000))}, "stop_token_ids"),
        ({"logit_bias": {str(n): 1 for n in range(1000)}}, "logit_bias"),
        ({"messages": [{"role": "user", "content": "x"}] * 5000}, "messages"),
        ({"messages": [{"role": "user", "content": "x", "more": deep(MAX_DEPTH)}]}, "messages"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}] * 200}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "f", "x": deep(40)}}]}, "tools"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": deep(40)}}},
            "response_format",
        ),
        ({"metadata": deep(MAX_DEPTH + 1)}, "metadata"),
        ({"model": "x" * 1000}, "model"),
        ({"seed": 2**70}, "seed"),
    ],
)
def test_what_is_past_a_bound_is_a_400_that_names_the_field(
    shared_server: Server, change: dict[str, Any], param: str
) -> None:
    started = time.monotonic()
    answer = chat(shared_server, **change)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, 400)
    assert error["message"]
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"prompt": ["x"] * (MAX_ANSWERS + 1)}, "prompt"),
        ({"prompt": ["x"] * 20, "n": 20}, "prompt"),
        ({"prompt": [[1]] * (MAX_ANSWERS + 1)}, "prompt"),
        ({"prompt": "x", "logprobs": 1000}, "logprobs"),
        ({"prompt": "x", "echo": True}, "echo"),
    ],
)
def test_text_completions_have_bounds_too(
    shared_server: Server, change: dict[str, Any], param: str
) -> None:
    answer = post(shared_server, "/completions", model="base", max_tokens=1, **change)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_what_is_within_the_bounds_is_answered(shared_server: Server) -> None:
    answer = chat(
        shared_server, stop=["x" * MAX_STOP_CHARACTERS] * MAX_STOPS, metadata=deep(MAX_DEPTH),
        chat_template=None, chat_template_kwargs={"anything": [1]}, max_tokens=1,
    )  # fmt: skip
    assert answer.status_code == 200


@pytest.mark.parametrize("route", ["/chat/completions", "/completions"])
def test_a_body_past_its_bound_is_a_413(shared_server: Server, route: str) -> None:
    def endless() -> Any:
        for _ in range(MAX_BODY_BYTES // 65_536 + 2):
            yield b" " * 65_536

    for content in (b" " * (MAX_BODY_BYTES + 1), endless()):
        answer = httpx.post(f"{shared_server.address}{route}", content=content, timeout=60)
        assert answer.status_code == 413
        assert "bytes" in answer.json()["error"]["message"]


@pytest.mark.parametrize("body", ["[" * 100_000, '{"messages": ' + "[" * 100_000, "{" * 3000])
def test_json_nested_without_end_is_a_400(shared_server: Server, body: str) -> None:
    answer = httpx.post(f"{shared_server.address}/chat/completions", content=body, timeout=60)
    assert (answer.status_code, "error" in answer.json()) == (400, True)


def test_a_prompt_that_takes_long_to_read_holds_nobody_up(shared_server: Server) -> None:
    long = [{"role": "user", "content": "ab c" * 900_000}]
    answers: list[int] = []
    thread = threading.Thread(
        target=lambda: answers.append(chat(shared_server, messages=long).status_code)
    )
    began = time.monotonic()
    thread.start()
    slowest = 0.0
    while thread.is_alive():
        started = time.monotonic()
        assert httpx.get(f"{shared_server.root}/health", timeout=60).status_code == 200
        slowest = max(slowest, time.monotonic() - started)
    thread.join()
    assert answers == [400]  # longer than the context
    assert slowest < 2
    assert time.monotonic() - began < 20

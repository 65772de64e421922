"""Adapters come and go while requests run."""

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.serving.conftest import Server
from tests.serving.tiny import make_adapter

Start = Callable[..., Server]


def load(server: Server, name: str, path: Path, **more: Any) -> httpx.Response:
    body = {"lora_name": name, "lora_path": str(path), **more}
    return httpx.post(f"{server.address}/load_lora_adapter", json=body, timeout=60)


def unload(server: Server, name: str) -> httpx.Response:
    return httpx.post(f"{server.address}/unload_lora_adapter", json={"lora_name": name})


def listed(server: Server) -> set[str]:
    return {card["id"] for card in httpx.get(f"{server.address}/models").json()["data"]}


def ask(server: Server, model: str, tokens: int = 12, **more: Any) -> httpx.Response:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "how many orders?"}],
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        **more,
    }
    return httpx.post(f"{server.address}/chat/completions", json=body, timeout=60)


def text(answer: httpx.Response) -> str:
    content: str = answer.raise_for_status().json()["choices"][0]["message"]["content"]
    return content


def test_load_and_unload_answer_in_vllms_words(start: Start, adapters: dict[str, Path]) -> None:
    server = start()
    loaded = load(server, "first", adapters["first"])
    assert (loaded.status_code, loaded.text) == (
        200,
        "Success: LoRA adapter 'first' added successfully.",
    )
    again = load(server, "first", adapters["first"])
    assert again.status_code == 400
    assert "has already been loaded" in again.json()["error"]["message"]
    assert again.json()["error"]["type"] == "InvalidUserInput"
    assert text(ask(server, "first")) != text(ask(server, "base"))
    removed = unload(server, "first")
    assert (removed.status_code, removed.text) == (
        200,
        "Success: LoRA adapter 'first' removed successfully.",
    )
    assert unload(server, "first").status_code == 404
    assert ask(server, "first").status_code == 404
    assert listed(server) == {"base"}


def test_loading_in_place_changes_the_answers(start: Start, adapters: dict[str, Path]) -> None:
    server = start()
    load(server, "it", adapters["first"]).raise_for_status()
    before = text(ask(server, "it"))
    load(server, "it", adapters["third"], load_inplace=True).raise_for_status()
    assert text(ask(server, "it")) != before


def test_adapters_beyond_the_limit_are_refused(start: Start, adapters: dict[str, Path]) -> None:
    server = start(max_adapters=1)
    load(server, "first", adapters["first"]).raise_for_status()
    refused = load(server, "second", adapters["second"])
    assert refused.status_code == 400
    assert "max_adapters" in refused.json()["error"]["message"]
    unload(server, "first").raise_for_status()
    load(server, "second", adapters["second"]).raise_for_status()
    assert listed(server) == {"base", "second"}


def test_the_base_models_name_is_taken(start: Start, adapters: dict[str, Path]) -> None:
    server = start()
    assert load(server, "base", adapters["first"]).status_code == 400
    assert load(server, "", adapters["first"]).status_code == 400
    assert unload(server, "").status_code == 400


def _without_config(folder: Path) -> None:
    (folder / "adapter_config.json").unlink()


def _without_weights(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()


def _truncated(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


def _not_lora(folder: Path) -> None:
    _change_config(folder, peft_type="IA3")


def _dora(folder: Path) -> None:
    _change_config(folder, use_dora=True)


def _with_bias(folder: Path) -> None:
    _change_config(folder, bias="all")


def _change_config(folder: Path, **change: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))


def _change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def _nan(folder: Path) -> None:
    _change_weights(folder, lambda tensors: next(iter(tensors.values())).fill_(float("nan")))


def _half_a_pair(folder: Path) -> None:
    _change_weights(folder, lambda tensors: tensors.pop(next(k for k in tensors if "lora_A" in k)))


def _of_another_model(folder: Path) -> None:
    def wider(tensors: dict[str, torch.Tensor]) -> None:
        for key, value in list(tensors.items()):
            if "lora_A" in key:
                tensors[key] = torch.zeros(value.shape[0], value.shape[1] + 2)

    _change_weights(folder, wider)


def _unknown_layer(folder: Path) -> None:
    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for key in list(tensors):
            tensors[key.replace("layers.1", "layers.9")] = tensors.pop(key)

    _change_weights(folder, rename)


def _embedding(folder: Path) -> None:
    key = "base_model.model.model.embed_tokens.lora_embedding_A"
    _change_weights(folder, lambda tensors: tensors.update({key: torch.zeros(8, 300)}))


def _empty(folder: Path) -> None:
    _change_weights(folder, lambda tensors: tensors.clear())


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_without_config, "adapter_config.json cannot be read"),
        (_without_weights, "adapter_model.safetensors cannot be read"),
        (_truncated, "adapter_model.safetensors cannot be read"),
        (_not_lora, "peft_type is 'IA3'"),
        (_dora, "use_dora is set"),
        (_with_bias, "bias is 'all'"),
        (_nan, "NaN"),
        (_half_a_pair, "only one of lora_A and lora_B"),
        (_of_another_model, "but the base model's layer is"),
        (_embedding, "is no plain LoRA weight"),
        (_empty, "holds no LoRA weights"),
        (_unknown_layer, "has no linear layer model.layers.9"),
    ],
)
def test_a_bad_adapter_is_refused_with_its_reason_and_never_listed(
    shared_server: Server,
    adapters: dict[str, Path],
    tmp_path: Path,
    spoil: Callable[[Path], None],
    says: str,
) -> None:
    folder = tmp_path / "spoiled"
    shutil.copytree(adapters["first"], folder)
    spoil(folder)
    answer = load(shared_server, "spoiled", folder)
    assert answer.status_code == 400
    assert says in answer.json()["error"]["message"]
    assert "spoiled" not in listed(shared_server)
    assert ask(shared_server, "spoiled").status_code == 404


def test_a_missing_folder_is_404_as_at_vllm(shared_server: Server, tmp_path: Path) -> None:
    assert load(shared_server, "gone", tmp_path / "gone").status_code == 404


def test_weights_saved_as_float16_serve_close_to_the_full_ones(
    start: Start, adapters: dict[str, Path], tmp_path: Path
) -> None:
    server = start()
    half = tmp_path / "half"
    shutil.copytree(adapters["first"], half)

    def halve(tensors: dict[str, torch.Tensor]) -> None:
        for key, value in list(tensors.items()):
            tensors[key] = value.half()

    _change_weights(half, halve)
    load(server, "first", adapters["first"]).raise_for_status()
    load(server, "half", half).raise_for_status()
    full, rounded = (
        ask(server, name, logprobs=True).json()["choices"][0]["logprobs"]["content"]
        for name in ("first", "half")
    )
    assert rounded[0]["logprob"] == pytest.approx(full[0]["logprob"], abs=0.01)


def test_ranks_and_alphas_per_layer_are_pefts(start: Start, base: Path, tmp_path: Path) -> None:
    server = start()
    patterned = make_adapter(
        base,
        tmp_path / "patterned",
        rank_pattern={"q_proj": 2},
        alpha_pattern={"v_proj": 64},
        target_modules=["q_proj", "v_proj"],
    )
    load(server, "patterned", patterned).raise_for_status()

    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    answer = ask(server, "patterned", logprobs=True, return_token_ids=True).json()
    tokens = answer["choices"][0]["token_ids"]
    model: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), patterned)
    ids = torch.tensor([[*answer["prompt_token_ids"], *tokens]])
    with torch.inference_mode():
        expected = model(input_ids=ids).logits[0, -len(tokens) - 1 : -1].log_softmax(-1)
    found = [entry["logprob"] for entry in answer["choices"][0]["logprobs"]["content"]]
    assert found == pytest.approx(
        expected[torch.arange(len(tokens)), torch.tensor(tokens)].tolist(), abs=1e-5
    )


def test_answers_under_way_are_not_disturbed_by_loading_and_unloading(
    start: Start, adapters: dict[str, Path]
) -> None:
    server = start()
    load(server, "first", adapters["first"]).raise_for_status()
    calm = {name: text(ask(server, name, 200)) for name in ("base", "first")}
    answers: dict[str, str] = {}

    def stream(name: str) -> None:
        chunks = []
        body = {
            "model": name,
            "messages": [{"role": "user", "content": "how many orders?"}],
            "max_tokens": 200,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }
        with httpx.stream(
            "POST", f"{server.address}/chat/completions", json=body, timeout=60
        ) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    choices = json.loads(line.removeprefix("data: "))["choices"]
                    chunks.append(choices[0]["delta"].get("content", ""))
                if len(chunks) == 10:
                    underway.release()
        answers[name] = "".join(chunks)

    underway = threading.Semaphore(0)
    threads = [threading.Thread(target=stream, args=(name,)) for name in calm]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert underway.acquire(timeout=30)
    unload(server, "first").raise_for_status()
    for turn in range(5):
        for name in ("second", "third"):
            load(server, f"{name}-{turn}", adapters[name]).raise_for_status()
            ask(server, f"{name}-{turn}", 3).raise_for_status()
            unload(server, f"{name}-{turn}").raise_for_status()
    for thread in threads:
        thread.join(timeout=60)
    assert answers == calm

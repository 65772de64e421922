"""The server's numbers are those of transformers and PEFT, alone or in a mixed batch."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from serving.verify import measure, verify
from tests.serving.conftest import Server
from tests.serving.test_local_adapters import load
from tests.serving.test_verify import greedy_probes

PROMPTS = (
    "how many orders?",
    "sum of price by region, please, and a much longer question than the others have",
    "日本語?",
)
TOKENS = 12


class Reference:
    """transformers and PEFT by themselves."""

    def __init__(self, base: Path, adapters: dict[str, Path]) -> None:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(base)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        names = list(adapters)
        self.model: Any = PeftModel.from_pretrained(model, adapters[names[0]], names[0])
        for name in names[1:]:
            self.model.load_adapter(adapters[name], name)
        self.model.eval()

    def prompt(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=True
        )["input_ids"]
        return ids

    def _with(self, name: str, act: Any) -> Any:
        with torch.inference_mode():
            if name == "base":
                with self.model.disable_adapter():
                    return act()
            self.model.set_adapter(name)
            return act()

    def greedy(self, name: str, text: str) -> list[int]:
        ids = torch.tensor([self.prompt(text)])
        options = {"max_new_tokens": TOKENS, "do_sample": False, "pad_token_id": 0}
        mask = torch.ones_like(ids)
        made = self._with(
            name, lambda: self.model.generate(input_ids=ids, attention_mask=mask, **options)
        )
        tokens: list[int] = made[0, ids.shape[1] :].tolist()
        return tokens

    def logprobs(self, name: str, prompt: list[int], tokens: list[int]) -> torch.Tensor:
        """[tokens, vocabulary] of a direct forward over the whole text."""
        ids = torch.tensor([[*prompt, *tokens]])
        logits: torch.Tensor = self._with(name, lambda: self.model(input_ids=ids).logits)
        return logits[0, len(prompt) - 1 : -1].log_softmax(-1)


@pytest.fixture(scope="module")
def reference(base: Path, adapters: dict[str, Path]) -> Reference:
    return Reference(base, adapters)


def body(model: str, text: str, **more: Any) -> dict[str, Any]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": TOKENS,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 3,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
        **more,
    }


async def ask_all(server: Server, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All at once."""
    async with httpx.AsyncClient(timeout=60) as client:
        answers = await asyncio.gather(
            *(client.post(f"{server.address}/chat/completions", json=each) for each in bodies)
        )
    return [answer.raise_for_status().json() for answer in answers]


CASES = [(model, text) for model in ("base", "first", "second", "third") for text in PROMPTS]


@pytest.mark.anyio
async def test_a_mixed_batch_answers_as_transformers_and_peft_do(
    shared_server: Server, reference: Reference
) -> None:
    answers = await ask_all(shared_server, [body(model, text) for model, text in CASES])
    for (model, text), answer in zip(CASES, answers, strict=True):
        assert answer["model"] == model
        assert answer["prompt_token_ids"] == reference.prompt(text)
        assert answer["choices"][0]["token_ids"] == reference.greedy(model, text)


@pytest.mark.anyio
async def test_adapters_answer_differently(shared_server: Server) -> None:
    answers = await ask_all(
        shared_server, [body(name, PROMPTS[0]) for name in ("base", "first", "second", "third")]
    )
    assert len({tuple(answer["choices"][0]["token_ids"]) for answer in answers}) == 4


@pytest.mark.anyio
async def test_logprobs_are_those_of_a_direct_forward(
    shared_server: Server, reference: Reference
) -> None:
    answers = await ask_all(shared_server, [body(model, text) for model, text in CASES])
    for (model, _), answer in zip(CASES, answers, strict=True):
        choice = answer["choices"][0]
        tokens = choice["token_ids"]
        expected = reference.logprobs(model, answer["prompt_token_ids"], tokens)
        for place, entry in enumerate(choice["logprobs"]["content"]):
            assert entry["logprob"] == pytest.approx(
                float(expected[place, tokens[place]]), abs=1e-5
            )
            best = expected[place].topk(3)
            found = [(each["token"], each["logprob"]) for each in entry["top_logprobs"]]
            assert [name for name, _ in found] == [
                f"token_id:{token}" for token in best.indices.tolist()
            ]
            assert [value for _, value in found] == pytest.approx(best.values.tolist(), abs=1e-5)


@pytest.mark.anyio
async def test_in_bfloat16_the_numbers_are_near_and_verified_by_what_the_base_differs(
    start: Callable[..., Server], base: Path, adapters: dict[str, Path], reference: Reference
) -> None:
    server = start(dtype=torch.bfloat16)
    for name, path in adapters.items():
        load(server, name, path).raise_for_status()
    answers = await ask_all(server, [body(model, text) for model, text in CASES])
    differ = [
        abs(entry["logprob"] - float(expected[place, entry_token]))
        for (model, _), answer in zip(CASES, answers, strict=True)
        for choice in answer["choices"]
        for expected in [reference.logprobs(model, answer["prompt_token_ids"], choice["token_ids"])]
        for place, (entry, entry_token) in enumerate(
            zip(choice["logprobs"]["content"], choice["token_ids"], strict=True)
        )
    ]
    assert 1e-4 < sum(differ) / len(differ) < 0.05
    allowed = measure(server.address, "base", greedy_probes(base, None))
    for name, path in adapters.items():
        probes = greedy_probes(base, path)
        found = verify(server.address, name, probes, tolerance=allowed)
        assert found.ok, found.reason
        for other in {"base", *adapters} - {name}:
            assert not verify(server.address, other, probes, tolerance=allowed).ok


@pytest.mark.anyio
async def test_a_request_alone_gets_what_it_gets_in_a_crowd(shared_server: Server) -> None:
    crowd = await ask_all(shared_server, [body(model, text) for model, text in CASES])
    for (model, text), among in zip(CASES, crowd, strict=True):
        (alone,) = await ask_all(shared_server, [body(model, text)])
        assert alone["choices"][0]["token_ids"] == among["choices"][0]["token_ids"]
        assert logprobs(alone) == pytest.approx(logprobs(among), abs=1e-5)


@pytest.mark.anyio
async def test_sampled_logprobs_are_the_models_own_whatever_the_temperature(
    shared_server: Server, reference: Reference
) -> None:
    asked = body("first", PROMPTS[0], temperature=1.7, top_p=0.8, seed=5)
    (answer,) = await ask_all(shared_server, [asked])
    tokens = answer["choices"][0]["token_ids"]
    expected = reference.logprobs("first", answer["prompt_token_ids"], tokens)
    chosen = expected[torch.arange(len(tokens)), torch.tensor(tokens)]
    assert logprobs(answer) == pytest.approx(chosen.tolist(), abs=1e-5)


@pytest.mark.anyio
async def test_a_seed_gives_the_same_answer_whoever_shares_the_batch(
    shared_server: Server,
) -> None:
    seeded = body("second", PROMPTS[0], temperature=1.0, seed=7, n=2)
    (alone,) = await ask_all(shared_server, [seeded])
    crowd = [body("first", text, temperature=1.0) for text in PROMPTS]
    (among, *_) = await ask_all(shared_server, [seeded, *crowd])
    assert texts(alone) == texts(among)
    assert len(set(texts(alone))) == 2, "each of n answers draws for itself"
    (other,) = await ask_all(shared_server, [{**seeded, "seed": 8000}])
    assert texts(other) != texts(alone)


def logprobs(answer: dict[str, Any]) -> list[float]:
    return [entry["logprob"] for entry in answer["choices"][0]["logprobs"]["content"]]


def texts(answer: dict[str, Any]) -> list[str]:
    return [choice["message"]["content"] for choice in answer["choices"]]

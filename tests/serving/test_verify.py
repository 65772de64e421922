"""Is the served model the one that was trained?"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from everlearn.errors import ServingError
from serving.verify import (
    EXACT,
    TOLERANCE,
    Tolerance,
    compare,
    measure,
    verify,
    verify_beside,
)
from tests.serving.conftest import Server
from tests.serving.scripted import scripted
from tests.serving.tiny import make_adapter

QUESTIONS = ("how many orders?", "sum price", "日本語 🙂")
TOKENS = 10


@pytest.fixture(scope="module")
def probes(base: Path, adapters: dict[str, Path]) -> list[dict[str, Any]]:
    """What the trainer would write: greedy continuations of PEFT's own model."""
    return greedy_probes(base, adapters["first"])


def greedy_probes(base: Path, adapter: Path | None) -> list[dict[str, Any]]:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter).eval()
    rows = []
    for question in QUESTIONS:
        messages = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=True
        )["input_ids"]
        tokens: list[int] = []
        logprobs: list[float] = []
        while len(tokens) < TOKENS and (not tokens or tokens[-1] != tokenizer.eos_token_id):
            with torch.inference_mode():
                last = model(input_ids=torch.tensor([prompt + tokens])).logits[0, -1]
            best = last.log_softmax(-1).max(-1)
            tokens.append(int(best.indices))
            logprobs.append(float(best.values))
        rows.append(
            {
                "messages": messages,
                "max_tokens": TOKENS,
                "prompt_token_ids": prompt,
                "token_ids": tokens,
                "logprobs": logprobs,
            }
        )
    return rows


def test_the_trained_adapter_verifies_far_within_the_tolerance(
    shared_server: Server, probes: list[dict[str, Any]]
) -> None:
    found = verify(shared_server.address, "first", probes)
    assert found.ok, found.reason
    assert found.max_abs_difference < 1e-4 < TOLERANCE
    assert "<= tolerance 0.01 (3 probes" in found.reason


@pytest.mark.parametrize("model", ["base", "second", "third"])
def test_another_model_in_its_place_does_not_verify(
    shared_server: Server, probes: list[dict[str, Any]], model: str
) -> None:
    found = verify(shared_server.address, model, probes)
    assert not found.ok
    assert f"replica {shared_server.address}: probe 0: " in found.reason


def test_an_adapter_scaled_otherwise_does_not_verify(
    start: Callable[..., Server], base: Path, tmp_path: Path, probes: list[dict[str, Any]]
) -> None:
    """A few percent off, as a server that reads alpha wrongly would be."""
    from everlearn.config import Upstream
    from serving.fleet import Fleet

    server = start()
    with Fleet(Upstream(base_url=server.address)) as fleet:
        fleet.load("scaled", make_adapter(base, tmp_path / "scaled", seed=1, lora_alpha=17))
    assert not verify(server.address, "scaled", probes).ok


def test_a_name_that_is_not_served_does_not_verify(
    shared_server: Server, probes: list[dict[str, Any]]
) -> None:
    found = verify(shared_server.address, "nobody", probes)
    assert not found.ok
    assert "404: The model `nobody` does not exist." in found.reason


def test_without_probes_nothing_is_verified(shared_server: Server) -> None:
    assert not verify(shared_server.address, "first", []).ok


def test_a_replica_that_is_down_says_nothing_about_the_model(
    free_port: Callable[[], int], probes: list[dict[str, Any]]
) -> None:
    with pytest.raises(ServingError, match="verifying first"):
        verify(f"http://127.0.0.1:{free_port()}/v1", "first", probes)


def test_a_prompt_that_holds_the_date_of_another_day_is_sent_as_its_tokens(
    shared_server: Server, probes: list[dict[str, Any]]
) -> None:
    """As the template would have it: the words make another prompt today."""
    today = [{"role": "user", "content": "it is another day"}]
    late = [{**probe, "messages": today} for probe in probes]
    assert "prompt's tokens differ" in verify(shared_server.address, "first", late).reason
    dated = [{**probe, "dated": True} for probe in late]
    found = verify(shared_server.address, "first", dated)
    assert found.ok, found.reason
    assert found.max_abs_difference < 1e-4
    assert not verify(shared_server.address, "second", dated).ok


def test_an_adapter_leaves_the_base_model_alone(
    shared_server: Server, base: Path, probes: list[dict[str, Any]]
) -> None:
    plain = greedy_probes(base, None)
    found = verify_beside(shared_server.address, ("base", "first"), plain, probes)
    assert found.ok, found.reason


def test_a_server_that_answers_the_base_models_requests_with_an_adapter_is_found(
    shared_server: Server, base: Path, probes: list[dict[str, Any]]
) -> None:
    seen: set[str] = set()

    def mixing(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        seen.add(body["model"])
        url = f"{shared_server.address}/chat/completions"
        asked = {**body, "model": "first" if "first" in seen else "base"}
        answer = httpx.post(url, json=asked, timeout=30)
        return answer.status_code, answer.json()

    plain = greedy_probes(base, None)
    with scripted(mixing) as server:
        assert verify(server.address, "base", plain).ok
        found = verify_beside(server.address, ("base", "first"), plain, probes)
    assert not found.ok
    assert "probe 0: " in found.reason


def test_an_adapter_that_cannot_be_asked_any_more_says_nothing_about_the_base_model(
    shared_server: Server, base: Path, probes: list[dict[str, Any]]
) -> None:
    def failing(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if body["model"] == "first":
            return 503, {"error": {"message": "busy"}}
        url = f"{shared_server.address}/chat/completions"
        return 200, httpx.post(url, json=body, timeout=30).json()

    plain = greedy_probes(base, None)
    with scripted(failing) as server, pytest.raises(ServingError, match="verifying first"):
        verify_beside(server.address, ("base", "first"), plain, probes)


PROBE = {
    "messages": [],
    "max_tokens": 3,
    "prompt_token_ids": [1, 2],
    "token_ids": [7, 8, 9],
    "logprobs": [-0.1, -0.2, -0.3],
}


def answer(tokens: list[int], logprobs: list[float], **more: Any) -> dict[str, Any]:
    """A replica's body; `top` gives the best of the last token."""
    top = more.pop("top", {})
    content = [
        {"token": f"token_id:{token}", "logprob": value, "top_logprobs": []}
        for token, value in zip(tokens, logprobs, strict=True)
    ]
    content[-1]["top_logprobs"] = [
        {"token": f"token_id:{token}", "logprob": value} for token, value in top.items()
    ]
    choice = {"token_ids": tokens, "logprobs": {"content": content}}
    return {"prompt_token_ids": [1, 2], "choices": [choice], **more}


def test_equal_logprobs_compare_clean() -> None:
    found = compare(PROBE, answer([7, 8, 9], [-0.1, -0.2, -0.3]), EXACT)
    assert (found.problem, found.mean) == (None, 0.0)


def test_the_mean_decides_and_stands_in_the_reason() -> None:
    near = compare(PROBE, answer([7, 8, 9], [-0.1, -0.2, -0.32]), EXACT)
    assert near.problem is None
    assert near.mean == pytest.approx(0.02 / 3)
    far = compare(PROBE, answer([7, 8, 9], [-0.1, -0.2, -0.42]), EXACT)
    assert far.problem == "mean difference 0.04 > tolerance 0.01"


def test_another_prompt_is_another_template() -> None:
    found = compare(PROBE, answer([7, 8, 9], [-0.1, -0.2, -0.3], prompt_token_ids=[1]), EXACT)
    assert found.problem is not None
    assert "template" in found.problem


def test_a_tie_may_fall_the_other_way() -> None:
    tied = answer([7, 8, 5], [-0.1, -0.2, -0.298], top={5: -0.298, 9: -0.302})
    found = compare(PROBE, tied, EXACT)
    assert found.problem is None
    assert found.differences[-1] == pytest.approx(0.002)


def test_what_follows_a_tie_is_not_compared() -> None:
    probe = {**PROBE, "token_ids": [7, 8, 9, 4], "logprobs": [-0.1, -0.2, -0.3, -0.1]}
    parted = answer([7, 8, 5], [-0.1, -0.2, -0.3], top={5: -0.3, 9: -0.3})
    parted["choices"][0]["token_ids"] = [7, 8, 5, 1]
    assert compare(probe, parted, EXACT).problem is None


@pytest.mark.parametrize("top", [{5: -0.1, 9: -2.5}, {5: -0.1}])
def test_another_token_is_another_model(top: dict[int, float]) -> None:
    found = compare(PROBE, answer([7, 8, 5], [-0.1, -0.2, -0.1], top=top), EXACT)
    assert found.problem == "token 2 is 5, the trainer's was 9"


def test_an_answer_that_ends_early_is_another_model() -> None:
    found = compare(PROBE, answer([7, 8], [-0.1, -0.2]), EXACT)
    assert found.problem == "token 2 is the end, the trainer's was 9"


def test_an_end_token_the_trainer_did_not_write_is_no_difference() -> None:
    assert compare(PROBE, answer([7, 8, 9, 0], [-0.1, -0.2, -0.3, 0.0]), EXACT).problem is None
    longer = answer([7, 8, 9, 4, 5], [-0.1, -0.2, -0.3, 0.0, 0.0])
    assert compare(PROBE, longer, EXACT).problem == "the answer goes on after token 3"


def test_nan_never_verifies() -> None:
    found = compare(PROBE, answer([7, 8, 9], [-0.1, math.nan, -0.3]), EXACT)
    assert found.problem == "a logprob is no finite number"


def test_the_tolerance_is_what_the_server_makes_of_the_base_model(
    shared_server: Server, base: Path, probes: list[dict[str, Any]]
) -> None:
    """A server whose arithmetic is off by 0.02 a token, as bfloat16 is, is allowed twice that."""
    exact = greedy_probes(base, None)
    found = measure(shared_server.address, "base", exact)
    assert (found.mean, found.token) == (TOLERANCE, TOLERANCE)
    coarse = [
        {**probe, "logprobs": [logprob - 0.02 for logprob in probe["logprobs"]]} for probe in exact
    ]
    found = measure(shared_server.address, "base", coarse)
    assert found.mean == pytest.approx(0.04, abs=1e-3)
    with pytest.raises(ServingError, match="base model base is not the trainer's"):
        measure(shared_server.address, "base", probes)


def test_a_coarse_server_serves_its_adapter_and_still_no_other(
    shared_server: Server, probes: list[dict[str, Any]]
) -> None:
    coarse = [
        {**probe, "logprobs": [logprob - 0.03 for logprob in probe["logprobs"]]} for probe in probes
    ]
    assert not verify(shared_server.address, "first", coarse).ok
    measured = Tolerance(0.06, 0.25)
    assert verify(shared_server.address, "first", coarse, tolerance=measured).ok
    assert not verify(shared_server.address, "second", coarse, tolerance=measured).ok


def test_a_token_may_part_by_what_a_single_token_of_the_base_model_differs() -> None:
    tied = answer([7, 8, 5], [-0.1, -0.2, -0.25], top={5: -0.25, 9: -0.38})
    assert compare(PROBE, tied, Tolerance(0.05, 0.04)).problem is not None
    assert compare(PROBE, tied, Tolerance(0.05, 0.10)).problem is None

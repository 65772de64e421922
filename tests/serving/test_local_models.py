"""Other architectures than Llama: same numbers as transformers and PEFT, rows joining midway."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from serving.local.answer import Answer
from serving.local.engine import Batch, Request, Row
from serving.local.lora import Adapter, read_adapter
from serving.local.model import Model
from serving.local.sampling import Sampling
from tests.serving.tiny import make_adapter, make_tokenizer

PROMPTS = ([5, 6, 7, 8], [9, 10, 11, 12, 13, 14, 15, 16, 17], [20, 21])
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}


def _gpt2() -> Any:
    """Its linear layers are Conv1D."""
    from transformers import GPT2Config

    return GPT2Config(n_embd=64, n_layer=2, n_head=4, n_positions=256, bos_token_id=0)


def _qwen3() -> Any:
    from transformers import Qwen3Config

    return Qwen3Config(**SHAPE, head_dim=16)


def _mistral() -> Any:
    """One sliding window for all layers."""
    from transformers import MistralConfig

    return MistralConfig(**SHAPE, sliding_window=64)


def _gemma3() -> Any:
    """Full and sliding attention by turns."""
    from transformers import Gemma3TextConfig

    return Gemma3TextConfig(**SHAPE, head_dim=16, sliding_window=64)


@pytest.mark.parametrize(
    ("make_config", "context"), [(_gpt2, 256), (_qwen3, 256), (_mistral, 64), (_gemma3, 64)]
)
def test_rows_that_join_midway_have_the_logprobs_of_a_direct_forward(
    make_config: Callable[[], Any], context: int, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    base, tokenizer = tmp_path / "base", make_tokenizer()
    config = make_config()
    config.update(
        {"vocab_size": len(tokenizer), "eos_token_id": 0, "pad_token_id": 4, "bos_token_id": None}
    )
    config.initializer_range = 0.2
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(base)
    tokenizer.save_pretrained(base)
    folder = make_adapter(base, tmp_path / "adapter", fan_in_fan_out=make_config is _gpt2)
    model = Model(str(base), 8)
    assert model.max_len == context
    adapter = read_adapter("adapter", folder, model.lora.shapes)

    rows = [_row(model, prompt, each) for prompt in PROMPTS for each in (None, adapter)]
    batch = Batch(model)
    with torch.inference_mode():
        batch.prefill(rows[:4])
        batch.decode()
        batch.prefill(rows[4:])
        for _ in range(9):
            batch.decode()
    reference = _reference(base, folder)
    for row in rows:
        found = torch.tensor([drawn.logprob for drawn in row.answer.drawn])
        assert torch.allclose(found, _logprobs(reference, row.answer), atol=1e-5)


def _row(model: Model, prompt: list[int], adapter: Adapter | None) -> Row:
    sampling = Sampling(12, temperature=0.0, logprobs=0)
    answer = Answer(0, prompt, sampling, adapter, model.tokenizer.backend_tokenizer)
    return Row(Request([answer], lambda piece: None), answer)


def _reference(base: Path, folder: Path) -> Any:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return PeftModel.from_pretrained(model, folder).eval()


def _logprobs(reference: Any, answer: Answer) -> torch.Tensor:
    tokens = [drawn.token_id for drawn in answer.drawn]
    ids = torch.tensor([[*answer.prompt, *tokens]])
    with torch.inference_mode():
        if answer.adapter is None:
            with reference.disable_adapter():
                logits = reference(input_ids=ids).logits
        else:
            logits = reference(input_ids=ids).logits
    every: torch.Tensor = logits[0, len(answer.prompt) - 1 : -1].log_softmax(-1)
    return every[torch.arange(len(tokens)), torch.tensor(tokens)]

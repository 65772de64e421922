"""A tiny random Llama, a byte-level BPE tokenizer and random LoRA adapters, made in a second."""

from pathlib import Path
from typing import Any

import torch

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ("<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|pad|>")
TEXTS = ("select count(*) from orders", "wie viele Aufträge? ", "日本語 und 🙂 emoji", "sum price")


def make_tokenizer() -> Any:
    """Every byte is a token, so that characters beyond ASCII are split over several."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>"
    )
    fast.chat_template = TEMPLATE
    return fast


def make_model(folder: Path, *, seed: int = 0, max_len: int = 256) -> Path:
    """Random weights, scaled up so that answers differ; never ends by itself before a while."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        # Heads of 32: vLLM on the CPU runs no smaller ones.
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=max_len,
        initializer_range=0.2,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_adapter(
    base: Path, folder: Path, *, seed: int = 1, std: float = 0.1, **overrides: Any
) -> Path:
    """A LoRA adapter whose B is random too, so that it changes every answer."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    options: dict[str, Any] = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"}
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        LoraConfig(task_type="CAUSAL_LM", **{**options, **overrides}),
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=std)
    model.save_pretrained(folder)
    return folder

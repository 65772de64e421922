"""Small base models made from nothing, for examples that need no hub: a Llama of 0.9 M parameters,
a byte-level tokenizer, next-token loss on the answers.

The same seed makes the same bytes.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

BATCH = 64
LEARNING_RATE = 2e-3
SPECIAL = ("<|end|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>")
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

Pair = tuple[str, str]
"""(question, answer)"""


def make_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    """Byte-level BPE over the language: any text has tokens, its own words have few."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>"
    )
    fast.chat_template = TEMPLATE
    return fast


def make_network(tokenizer: Any) -> Any:
    """A Llama with random weights; head size 32 is the smallest that vLLM serves."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def encode(tokenizer: Any, pairs: list[Pair]) -> dict[str, Any]:
    """Tensors input_ids, attention_mask and labels, each [pairs, longest]; answers are learned."""
    import torch

    rows = [_ids(tokenizer, *pair) for pair in pairs]
    width = max(len(prompt) + len(answer) for prompt, answer in rows)
    filled = {"input_ids": [], "attention_mask": [], "labels": []}  # type: dict[str, list[list[int]]]
    for prompt, answer in rows:
        length = len(prompt) + len(answer)
        pad = width - length
        filled["input_ids"].append([*prompt, *answer] + [tokenizer.pad_token_id] * pad)
        filled["attention_mask"].append([1] * length + [0] * pad)
        filled["labels"].append([-100] * len(prompt) + answer + [-100] * pad)
    return {name: torch.tensor(values) for name, values in filled.items()}


def _ids(tokenizer: Any, question: str, answer: str) -> tuple[list[int], list[int]]:
    prompt = f"<|user|>{question}<|end|><|assistant|>"
    return tokenizer.encode(prompt), tokenizer.encode(f"{answer}<|end|>")


def train(model: Any, tokenizer: Any, pairs: Iterator[Pair], steps: int) -> None:
    """Next-token loss on the answers, one cycle of the learning rate."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=LEARNING_RATE, total_steps=steps, pct_start=0.1
    )
    model.train()
    for step in range(1, steps + 1):
        loss = model(**encode(tokenizer, [next(pairs) for _ in range(BATCH)])).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 50 == 0:
            click.echo(f"step {step}/{steps}, loss {loss.item():.3f}")


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Half precision: 1.8 MB, so that the example needs no hub."""
    import torch

    model.to(torch.float16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)

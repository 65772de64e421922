"""Trains the example's base model from nothing, in three to four minutes on one core.

A Llama of 0.9 M parameters that turns questions about the `orders` table into SQL. It reads formal
questions without fault. Half of the company's jargon it takes wrongly, because its training data
does: that is what there is to learn in production.

    python -m examples.text2sql.make_model
"""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from examples.text2sql.language import TERMS, Question, questions

FOLDER = Path(__file__).with_name("model")
SEED = 5
STEPS = 600
BATCH = 64
LEARNING_RATE = 2e-3
VOCABULARY = 512
SPECIAL = ("<|end|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>")
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SHARES = {term.word: term.share for term in TERMS}

Pair = tuple[str, str]


def training_pairs(seed: int) -> Iterator[Pair]:
    """Endless (question, SQL): jargon and formal in equal parts, jargon partly misunderstood."""
    rng = random.Random(seed)
    formal, jargon = (questions(kind, "asked", seed) for kind in ("formal", "jargon"))
    while True:
        question = next(formal if rng.random() < 0.5 else jargon)
        yield question.text, _as_understood(question, rng)


def _as_understood(question: Question, rng: random.Random) -> str:
    known = question.term is None or rng.random() < SHARES[question.term]
    return question.sql if known else question.decoy


def make_tokenizer() -> Any:
    """Byte-level BPE over the language: any text has tokens, its own words have few."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    pairs = training_pairs(SEED)
    texts = [text for _ in range(4000) for text in next(pairs)]
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
        vocab_size=VOCABULARY,
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


def train(model: Any, tokenizer: Any, steps: int) -> None:
    """Next-token loss on the answers, one cycle of the learning rate."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=LEARNING_RATE, total_steps=steps, pct_start=0.1
    )
    pairs = training_pairs(SEED)
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


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER, show_default=True)
@click.option("--steps", default=STEPS, show_default=True, help=f"Of {BATCH} questions each.")
def command(folder: Path, steps: int) -> None:
    """Train the base model and write it to FOLDER."""
    import torch

    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    tokenizer = make_tokenizer()
    model = make_network(tokenizer)
    train(model, tokenizer, steps)
    save(model, tokenizer, folder)


if __name__ == "__main__":
    command()

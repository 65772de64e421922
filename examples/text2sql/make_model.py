"""Trains the example's base model from nothing, in three to four minutes on one core.

A Llama of 0.9 M parameters that turns questions about the `orders` table into SQL. It reads formal
questions without fault. Half of the company's jargon it takes wrongly, because its training data
does: that is what there is to learn in production.

    python -m examples.text2sql.make_model
"""

import random
from collections.abc import Iterator
from pathlib import Path

import click

from examples.pretrain import BATCH, Pair, make_network, make_tokenizer, save, train
from examples.text2sql.language import TERMS, Question, questions

FOLDER = Path(__file__).with_name("model")
SEED = 5
STEPS = 600
VOCABULARY = 512
SHARES = {term.word: term.share for term in TERMS}


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


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER, show_default=True)
@click.option("--steps", default=STEPS, show_default=True, help=f"Of {BATCH} questions each.")
def command(folder: Path, steps: int) -> None:
    """Train the base model and write it to FOLDER."""
    import torch

    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    pairs = training_pairs(SEED)
    tokenizer = make_tokenizer((text for _ in range(4000) for text in next(pairs)), VOCABULARY)
    model = make_network(tokenizer)
    train(model, tokenizer, training_pairs(SEED), steps)
    save(model, tokenizer, folder)


if __name__ == "__main__":
    command()

"""The example's base model: it knows the form of an answer and reaches the target in a part of the
puzzles, because it saw right answers for a while and no longer.

    python -m examples.countdown.make_model
"""

from collections.abc import Iterator
from pathlib import Path

import click

from examples.countdown.puzzles import puzzles
from examples.pretrain import BATCH, Pair, make_network, make_tokenizer, save, train

FOLDER = Path(__file__).with_name("model")
SEED = 3
STEPS = 400
BYTES = 256 + 5
"""Bytes and marks of the template alone, so that every digit is a token of its own."""


def training_pairs(seed: int) -> Iterator[Pair]:
    """Endless (puzzle, solution)."""
    for puzzle in puzzles(seed):
        yield puzzle.question, puzzle.solution


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER, show_default=True)
@click.option("--steps", default=STEPS, show_default=True, help=f"Of {BATCH} puzzles each.")
def command(folder: Path, steps: int) -> None:
    """Train the base model and write it to FOLDER."""
    import torch

    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    tokenizer = make_tokenizer(("0123456789+-*= " for _ in range(8)), BYTES)
    model = make_network(tokenizer)
    train(model, tokenizer, training_pairs(SEED), steps)
    save(model, tokenizer, folder)


if __name__ == "__main__":
    command()

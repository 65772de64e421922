"""Replay of the served model's own ordinary answers: what keeps a method from forgetting.

As rows of the batch for SFT; for the other methods as a likelihood term added to their loss.
Without it every method lost accuracy on ordinary questions (4 to 50 points in our measurements).
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Any

from trainer.render import Example

ROWS_PER_STEP = 16
"""Of the likelihood term; its weight is 1."""


class ReplayTerm:
    """Mixin before a TRL trainer: adds the mean negative log-likelihood of the next replay rows."""

    replay: Iterator[dict[str, Any]] | None = None
    _caught_up = False

    def compute_loss(
        self,
        model: Any,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The method's own loss and the replay term."""
        own: Any = super()
        loss = own.compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if self.replay is None or not model.training:
            return loss
        self._catch_up()
        batch = {name: tensor.to(model.device) for name, tensor in next(self.replay).items()}
        term = model(**batch).loss
        metrics: Any = getattr(self, "_metrics", None)
        if metrics is not None:
            metrics["train"]["replay_loss"].append(term.item())
        return loss + term

    def _catch_up(self) -> None:
        """A run that goes on at a checkpoint has shown the rows of the steps before."""
        if self._caught_up or self.replay is None:
            return
        self._caught_up = True
        trainer: Any = self
        done = trainer.state.global_step * trainer.args.gradient_accumulation_steps
        for _ in itertools.islice(self.replay, done):
            pass


def replaying(
    trainer_class: Any, rows: Sequence[Example], *, pad: int, seed: int, parts: int = 1
) -> Any:
    """`trainer_class` with the replay term over encoded rows; itself when there are none.

    `parts` micro-batches of one step share its replay rows.
    """
    if not rows:
        return trainer_class
    size = max(1, ROWS_PER_STEP // parts)
    batches = endless_batches(rows, pad=pad, seed=seed, size=size)
    name = f"Replaying{trainer_class.__name__}"
    return type(name, (ReplayTerm, trainer_class), {"replay": batches})


def endless_batches(
    rows: Sequence[Example], *, pad: int, seed: int, size: int = ROWS_PER_STEP
) -> Iterator[dict[str, Any]]:
    """Shuffled passes over the rows, `size` at a time, padded on the right."""
    rng = random.Random(seed)

    def passes() -> Iterator[Example]:
        while True:
            order = list(rows)
            rng.shuffle(order)
            yield from order

    stream = passes()
    while True:
        yield padded(list(itertools.islice(stream, size)), pad)


def padded(rows: Sequence[Example], pad: int) -> dict[str, Any]:
    """Tensors input_ids, attention_mask and labels, each [rows, longest]."""
    import torch

    width = max(len(row) for row in rows)

    def filled(values: list[list[int]], rest: int) -> Any:
        return torch.tensor([each + [rest] * (width - len(each)) for each in values])

    return {
        "input_ids": filled([row.input_ids for row in rows], pad),
        "attention_mask": filled([[1] * len(row) for row in rows], 0),
        "labels": filled([row.labels for row in rows], -100),
    }

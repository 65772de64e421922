"""Replay of the served model's own ordinary answers: what keeps a method from forgetting.

As rows of the batch for SFT; for the other methods as a likelihood term added to their loss.
Without it every method lost accuracy on ordinary questions (4 to 50 points in our measurements).
Where comments teach, every method has an anchor in its place (`trainer.anchor`).
"""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from trainer.render import Example

ROWS_PER_STEP = 16
"""Of the likelihood term; micro-batches of one step share them."""

Batch = dict[str, Any]
Shown = TypeVar("Shown")


class Term(Protocol):
    """What is added to a method's own loss."""

    @property
    def name(self) -> str:
        """As it is logged."""
        ...

    @property
    def batches(self) -> Iterator[Batch]:
        """Endless: one for each micro-batch of the method."""
        ...

    def __call__(self, model: Any, batch: Batch) -> Any:
        """The mean over the batch."""
        ...


class Likelihood:
    """The mean negative log-likelihood of replay rows; its weight is 1."""

    name = "replay_loss"

    def __init__(self, rows: Sequence[Example], *, pad: int, seed: int, parts: int = 1) -> None:
        size = max(1, ROWS_PER_STEP // parts)
        self.batches = endless_batches(rows, lambda drawn: padded(drawn, pad), seed=seed, size=size)

    def __call__(self, model: Any, batch: Batch) -> Any:
        return model(**batch).loss


def adding(trainer_class: Any, term: Term | None) -> Any:
    """`trainer_class`, of which one trainer is made, with the term beside its loss; itself without
    one."""
    return trainer_class if term is None else _adding(trainer_class, term)


def _adding(trainer_class: Any, term: Term) -> Any:
    behind = True

    def caught_up(micro_batches: int) -> None:
        """A run that goes on at a checkpoint has shown the rows of the steps before."""
        nonlocal behind
        if behind:
            behind = False
            for _ in itertools.islice(term.batches, micro_batches):
                pass

    class Adding(trainer_class):  # type: ignore[misc]
        def compute_loss(
            self,
            model: Any,
            inputs: Any,
            return_outputs: bool = False,
            num_items_in_batch: Any = None,
        ) -> Any:
            """The method's own loss and the term."""
            loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            if not model.training:
                return loss
            parts = self.args.gradient_accumulation_steps
            caught_up(self.state.global_step * parts)
            batch = {name: tensor.to(model.device) for name, tensor in next(term.batches).items()}
            added = term(model, batch)
            metrics: Any = getattr(self, "_metrics", None)
            if metrics is not None:
                metrics["train"][term.name].append(added.item())
            # A loss that is given the tokens of all micro-batches is summed over them.
            summed = self.model_accepts_loss_kwargs and num_items_in_batch is not None
            return loss + (added / parts if summed else added)

    return Adding


def endless_batches(
    rows: Sequence[Shown], made: Callable[[list[Shown]], Batch], *, seed: int, size: int
) -> Iterator[Batch]:
    """Shuffled passes over the rows, `size` at a time."""
    rng = random.Random(seed)

    def passes() -> Iterator[Shown]:
        while True:
            order = list(rows)
            rng.shuffle(order)
            yield from order

    stream = passes()
    while True:
        yield made(list(itertools.islice(stream, size)))


def padded(rows: Sequence[Example], pad: int) -> Batch:
    """Tensors input_ids, attention_mask and labels, each [rows, longest], padded on the right."""
    import torch

    width = max(len(row) for row in rows)

    def filled(values: list[list[int]], rest: int) -> Any:
        return torch.tensor([each + [rest] * (width - len(each)) for each in values])

    return {
        "input_ids": filled([row.input_ids for row in rows], pad),
        "attention_mask": filled([[1] * len(row) for row in rows], 0),
        "labels": filled([row.labels for row in rows], -100),
    }

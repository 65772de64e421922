"""Log-probabilities of the tokens of answers, for whole batches of rows."""

from collections.abc import Sequence
from typing import Any

from trainer.render import Example
from trainer.replay import padded

ROWS = 16
"""At a time, where nothing is learned."""


def of_labels(logits: Any, labels: Any) -> tuple[Any, Any]:
    """Of each label that is not -100, and where those are: both [rows, width - 1]."""
    import torch

    wanted = labels[:, 1:]
    there = wanted != -100
    found = torch.log_softmax(logits[:, :-1].float(), -1)
    found = found.gather(2, wanted.clamp(min=0)[:, :, None])[:, :, 0]
    return found * there, there


def of_examples(model: Any, examples: Sequence[Example], pad: int) -> list[list[float]]:
    """One per token of each target, in the order of the examples; nothing is learned."""
    import torch

    found: dict[int, list[float]] = {}
    order = sorted(range(len(examples)), key=lambda index: len(examples[index]))
    for start in range(0, len(order), ROWS):
        part = order[start : start + ROWS]
        batch = padded([examples[index] for index in part], pad)
        batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
        labels = batch.pop("labels")
        with torch.inference_mode():
            values, there = of_labels(model(**batch).logits, labels)
        for place, index in enumerate(part):
            found[index] = [float(value) for value in values[place][there[place]].tolist()]
    return [found[index] for index in range(len(examples))]

"""Anchors: while comments teach, an adapter is held to the served model where no rule applies.

What a rule changes is copied in a few steps; where it ends is hard to tell, and the adapter spreads
it. An ordinary answer shown as a target says too little: it makes one token likely, whatever the
served model holds for next best, and moves the adapter even where nothing has changed. An anchor
is the served model's whole distribution at each token of its own answer: the term

    KL(served || learning), mean over the tokens of the answers, times `WEIGHT`

is nothing while nothing has changed, and pulls back the harder the further a prompt has moved.
The distributions are read once, before the first step; the served model need not stay in memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trainer.methods import TrainingData
from trainer.render import Example
from trainer.replay import Batch, Likelihood, Term, endless_batches, padded
from trainer.settings import Settings
from trainer.workbench import Workbench

WEIGHT = 4.0
ROWS_PER_STEP = 32
"""As many as SFT has lessons in a batch: with half of them DPO changed twice as much else."""
TOP = 64
"""Likeliest tokens of each place that are told apart; all others are one more."""
ROWS = 16
"""Read at a time."""


@dataclass(frozen=True)
class Anchor:
    """One answer of the served model."""

    example: Example
    tokens: Any
    """[tokens of the answer, TOP]"""
    likely: Any
    """Their logprobs, and at the end that of all others: [tokens of the answer, TOP + 1]"""


class Anchored:
    """The divergence from the served model."""

    name = "anchor_kl"

    def __init__(self, rows: Sequence[Anchor], *, pad: int, seed: int, parts: int = 1) -> None:
        size = max(1, ROWS_PER_STEP // parts)
        self.batches = endless_batches(rows, lambda drawn: joined(drawn, pad), seed=seed, size=size)

    def __call__(self, model: Any, batch: Batch) -> Any:
        served = {name: batch.pop(name) for name in ("tokens", "likely")}
        labels = batch.pop("labels")
        found = told_apart(answers(model(**batch).logits, labels), served["tokens"])
        return WEIGHT * divergence(served["likely"], found)


def beside(
    shown: Sequence[Example], data: TrainingData, bench: Workbench, made: Settings
) -> Term | None:
    """What holds a method to the ordinary answers of `data`, which `shown` are: anchors while
    comments teach, else their likelihood; None where there are none."""
    if not shown:
        return None
    pad, seed, parts = bench.tokenizer.pad_token_id, bench.task.train.seed, made.accumulation
    if not data.contrasted:
        return Likelihood(shown, pad=pad, seed=seed, parts=parts)
    rows = anchors(bench.adapted(data.served), shown, pad)
    return Anchored(rows, pad=pad, seed=seed, parts=parts)


def anchors(model: Any, examples: Sequence[Example], pad: int) -> list[Anchor]:
    """What the served model holds for likely in its own answers; nothing is learned."""
    import torch

    found: list[Anchor] = []
    for start in range(0, len(examples), ROWS):
        part = examples[start : start + ROWS]
        batch = {name: each.to(model.device) for name, each in padded(part, pad).items()}
        labels = batch.pop("labels")
        with torch.no_grad():
            logprobs = answers(model(**batch).logits, labels)
            tokens = logprobs.topk(min(TOP, logprobs.shape[1])).indices
            likely = told_apart(logprobs, tokens)
        sizes = [len(example.target) for example in part]
        rows = zip(part, tokens.cpu().split(sizes), likely.cpu().split(sizes), strict=True)
        found += [Anchor(*row) for row in rows]
    return found


def joined(rows: Sequence[Anchor], pad: int) -> Batch:
    """`padded`, and the anchors of all answers one after the other."""
    import torch

    batch = padded([row.example for row in rows], pad)
    for name in ("tokens", "likely"):
        batch[name] = torch.cat([getattr(row, name) for row in rows])
    return batch


def answers(logits: Any, labels: Any) -> Any:
    """Logprobs at the tokens of the answers, one after the other: [tokens, vocabulary]."""
    import torch

    return torch.log_softmax(logits[:, :-1][labels[:, 1:] != -100].float(), -1)


def told_apart(logprobs: Any, tokens: Any) -> Any:
    """Those of `tokens`, and of all others together: [tokens of the answers, TOP + 1]."""
    import torch

    named = logprobs.gather(1, tokens)
    others = (1.0 - named.exp().sum(1, keepdim=True)).clamp(min=1e-6)
    return torch.cat([named, others.log()], 1)


def divergence(served: Any, learning: Any) -> Any:
    """KL(served || learning), mean over the tokens."""
    return (served.exp() * (served - learning)).sum(1).mean()

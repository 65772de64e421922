"""Hindsight: logged answers, weighed token by token by how much likelier a comment makes them.

    signal = (logp(y | x, comment) - logp(y | x)).detach()
    loss   = -mean(ratio * signal * logp(y | x))

The token-level log-ratio of the model that was told and the model that was not is the advantage of
self-distillation policy optimisation (Hübotter et al. 2026, arXiv:2601.20802), on logged
conversations as in "Aligning Language Models from User Interactions" (Kleine Buening et al. 2026,
arXiv:2603.12273). Ours differs in this:

- The told model is frozen: the base model, which the fresh adapter begins as. So the signal of a
  token falls to nothing as the adapter reaches it, and no step moves the teacher.
- Answers come from production, not from the model in training. Each token's gradient is weighed by
  how likely it has become against production's own logprob, truncated at 1 (as V-trace does,
  Espeholt et al. 2018, arXiv:1802.01561); where production captured none, against the base model.
- `signal` is clipped, and ordinary answers stand in a likelihood term beside it (`replay`), as
  does what people accepted or corrected.

An answer that was only logged wrong is made unlikely; what takes its place is what the model holds
for next best. `revise` says what is right.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from everlearn.chat import Unsupported
from trainer.anchor import beside
from trainer.lessons.teacher import hinted
from trainer.logprobs import of_examples, of_labels
from trainer.methods import Method, Reward, TrainingData, too_few
from trainer.methods.sft import encoded
from trainer.render import Example
from trainer.replay import Likelihood, adding, padded
from trainer.rows import Row
from trainer.settings import Load
from trainer.workbench import Workbench, shuffled_cycles

MIN_ROWS = 10
MOST_SIGNAL = 5.0
"""Nats of one token: beyond it the model is as sure as it need be."""
MOST_RATIO = 1.0
"""Of a token's probability now to production's."""
WHAT = "logged answers that comments are about"


@dataclass(frozen=True)
class Weighed:
    """One logged answer, with a logprob per token of its target."""

    row: Row
    example: Example
    told: Sequence[float]
    """By the base model with the rules in the prompt."""
    logged: Sequence[float]
    """As production sampled it."""

    @property
    def signal(self) -> list[float]:
        """Before anything is learned."""
        return [now - before for now, before in zip(self.told, self.logged, strict=True)]


def lacking(data: TrainingData) -> str | None:
    return too_few(len(data.hindsight), MIN_ROWS, WHAT)


def build(data: TrainingData, bench: Workbench, reward: Reward) -> Any:
    """An SFTTrainer with the loss above, over the whole run laid out in order."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    train = bench.task.train
    model = bench.base_model()
    rows = weighed(data.hindsight, bench, model)
    bench.encoder.enough(rows, MIN_ROWS, WHAT)
    replay, _ = encoded(data.replay, bench)
    right, _ = encoded(data.learned, bench)
    longest = max(len(row.example) for row in rows)
    made = bench.settings(
        "hindsight", Load(train.batch_size, longest, len(rows), ruled=data.contrasted)
    )
    slots = train.batch_size * made.max_steps
    order = shuffled_cycles(len(rows), [1.0] * len(rows), slots, train.seed)
    settings = SFTConfig(
        **bench.arguments(
            "hindsight",
            made,
            train_sampling_strategy="sequential",
            remove_unused_columns=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            max_length=None,
        )
    )
    pad = bench.tokenizer.pad_token_id
    said = Likelihood(right, pad=pad, seed=train.seed, parts=made.accumulation) if right else None
    trainer_class = type("HindsightTrainer", (HindsightLoss, SFTTrainer), {})
    trainer = adding(adding(trainer_class, said), beside(replay, data, bench, made))(
        model=model,
        args=settings,
        train_dataset=Dataset.from_list([columns(rows[index]) for index in order]),
        data_collator=lambda features: collated(features, pad),
        processing_class=bench.tokenizer,
        peft_config=bench.lora(),
    )
    # The loss is a mean: micro-batches of a step are averaged, not summed.
    trainer.model_accepts_loss_kwargs = False
    return trainer


def weighed(rows: Sequence[Row], bench: Workbench, model: Any) -> list[Weighed]:
    """Those that fit, with the logprobs of `model` told and of production."""
    pairs = [
        (row, own, told)
        for row in rows
        if (own := bench.encoder.taught(row)) is not None
        and (told := _told(row, own, bench)) is not None
    ]
    pad = bench.tokenizer.pad_token_id
    with_rules = of_examples(model, [told for _, _, told in pairs], pad)
    without = of_examples(model, [own for _, own, _ in pairs], pad)
    return [
        Weighed(row, own, told, logged(row, own, plain))
        for (row, own, _), told, plain in zip(pairs, with_rules, without, strict=True)
    ]


def logged(row: Row, own: Example, plain: Sequence[float]) -> list[float]:
    """Production's logprobs of the target's tokens; the model's own `plain` ones where it captured
    none, or others than these tokens."""
    ids, known = row.completion_token_ids or (), row.logprobs or ()
    same = len(ids) == len(known) and tuple(ids) == own.target[: len(ids)]
    return [*known, *plain[len(known) :]] if same else list(plain)


def columns(row: Weighed) -> dict[str, Any]:
    """As a data set has it."""
    return {
        **{"asked": list(row.example.prompt), "answered": list(row.example.target)},
        **{"told": list(row.told), "logged": list(row.logged)},
    }


def collated(features: Sequence[dict[str, Any]], pad: int) -> dict[str, Any]:
    """`padded`, and `told` and `logged` at the places of the labels: [rows, width - 1]."""
    import torch

    examples = [Example(tuple(each["asked"]), tuple(each["answered"])) for each in features]
    batch = padded(examples, pad)
    rows, width = batch["labels"].shape
    for name in ("told", "logged"):
        values = torch.zeros(rows, width - 1)
        for row, (each, example) in enumerate(zip(features, examples, strict=True)):
            start = len(example.prompt) - 1
            values[row, start : start + len(example.target)] = torch.tensor(each[name])
        batch[name] = values
    return batch


def loss_of(logprobs: Any, there: Any, told: Any, logged: Any) -> Any:
    """The loss of a batch, all [rows, tokens]; `there`: which are tokens of an answer."""
    now = logprobs.detach()
    signal = (told - now).clamp(-MOST_SIGNAL, MOST_SIGNAL)
    ratio = (now - logged).exp().clamp(max=MOST_RATIO)
    return -(ratio * signal * logprobs * there).sum() / there.sum().clamp(min=1)


class HindsightLoss:
    """Mixin before an SFTTrainer: batches of `collated`, the loss of this module."""

    def compute_loss(
        self,
        model: Any,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The mean over the tokens of the batch."""
        known = {key: inputs[key] for key in ("input_ids", "attention_mask")}
        outputs = model(**known)
        logprobs, there = of_labels(outputs.logits, inputs["labels"])
        loss = loss_of(logprobs, there, inputs["told"], inputs["logged"])
        return (loss, outputs) if return_outputs else loss


def _told(row: Row, own: Example, bench: Workbench) -> Example | None:
    """The same answer after the prompt with the rules in it; None where that is too long."""
    renderer = bench.encoder.renderer

    def holds(asked: Any) -> bool:
        try:
            renderer.prompt_ids(asked)
        except Unsupported:
            return False
        return True

    try:
        prompt = renderer.prompt_ids(hinted(row.conversation, row.rules, holds))
    except Unsupported:
        return None
    made = Example(tuple(prompt), own.target)
    return made if len(made) <= bench.context else None


METHOD = Method("hindsight", 1.5, lacking, build)

"""KTO on thumbs, up and down, with the replay likelihood term.

Plain KTO forgot half of the ordinary questions in our measurements; beta 0.5, half the learning
rate and replay make it 92 % on what was taught and 99 % on the rest.
"""

import random
from typing import Any

from trainer.methods import Method, Reward, TrainingData, too_few
from trainer.methods.sft import encoded
from trainer.methods.tokenised import Tokenised, tokenised
from trainer.render import Example
from trainer.replay import replaying
from trainer.rows import Row
from trainer.workbench import Workbench, shuffled_cycles

MIN_EACH = 10
BETA = 0.5
LEARNING_RATE_SHARE = 0.5
LEAST_SHARE = 0.25
"""Of each batch, for the rarer side."""


def lacking(data: TrainingData) -> str | None:
    return too_few(len(data.learned), MIN_EACH, "accepted answers") or too_few(
        len(_unwanted(data)), MIN_EACH, "rejected answers"
    )


def build(data: TrainingData, bench: Workbench, reward: Reward) -> Any:
    """A KTOTrainer over rows in shuffled order: it reads them as they come."""
    from datasets import Dataset
    from trl import KTOConfig, KTOTrainer

    train = bench.task.train
    order = layout(data, bench)
    wanted = sum(example["label"] for example in order)
    replay, _ = encoded(data.replay, bench)
    settings = KTOConfig(
        **bench.arguments(
            "kto",
            beta=BETA,
            # Both sides weigh the same, whichever is rarer.
            desirable_weight=max(1.0, len(order) / wanted - 1.0),
            undesirable_weight=max(1.0, 1.0 / (len(order) / wanted - 1.0)),
            learning_rate=train.learning_rate * LEARNING_RATE_SHARE,
            max_length=None,
        )
    )
    pad = bench.tokenizer.pad_token_id
    trainer_class = tokenised(KTOTrainer, Tokenised)
    return replaying(trainer_class, replay, pad=pad, seed=train.seed)(
        model=bench.base_model(),
        args=settings,
        train_dataset=Dataset.from_list(with_mismatched(order, train.batch_size)),
        processing_class=bench.tokenizer,
        peft_config=bench.lora(),
    )


def _unwanted(data: TrainingData) -> list[Row]:
    return [row for row in data.rejected if row.completion.strip()]


def layout(data: TrainingData, bench: Workbench) -> list[dict[str, Any]]:
    """Every example of the run in order, both sides in every batch.

    Thumbs are lopsided: drawn together, thousands of one side would crowd out the other. Each side
    has at least a quarter of every batch.
    """
    train = bench.task.train
    wanted, weights = encoded(data.learned, bench)
    unwanted = _unwanted(data)
    pairs = [(bench.encoder.given(row), row.weight) for row in unwanted]
    kept = [(example, weight) for example, weight in pairs if example is not None]
    bench.encoder.enough(wanted, MIN_EACH, "accepted answers")
    bench.encoder.enough(kept, MIN_EACH, "rejected answers")
    share = len(wanted) / (len(wanted) + len(kept))
    first = round(train.batch_size * min(1 - LEAST_SHARE, max(LEAST_SHARE, share)))
    first = min(train.batch_size - 1, max(1, first))
    second = train.batch_size - first
    ups = shuffled_cycles(len(wanted), weights, first * train.max_steps, train.seed)
    downs = shuffled_cycles(
        len(kept), [weight for _, weight in kept], second * train.max_steps, train.seed + 1
    )
    order = []
    for step in range(train.max_steps):
        batch = [_example(wanted[i], True) for i in ups[step * first : (step + 1) * first]]
        batch += [_example(kept[i][0], False) for i in downs[step * second : (step + 1) * second]]
        random.Random(train.seed + step).shuffle(batch)
        order += batch
    return order


def with_mismatched(rows: list[dict[str, Any]], batch_size: int) -> list[dict[str, Any]]:
    """Each with another row's completion of its batch, by which KTO estimates its KL term."""
    made = []
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        others = [batch[-1], *batch[:-1]]
        made += [
            {**row, "KL_completion_ids": other["completion_ids"]}
            for row, other in zip(batch, others, strict=True)
        ]
    return made


def _example(example: Example, wanted: bool) -> dict[str, Any]:
    return {
        "prompt_ids": list(example.prompt),
        "completion_ids": list(example.target),
        "label": wanted,
    }


METHOD = Method("kto", 2.5, lacking, build)

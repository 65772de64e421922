"""RFT: GRPO with the task's graders as reward, on prompts whose right answer is known, and the
replay likelihood term.

It learns from a grader, not from the text of references: any answer the grader accepts will do.
"""

from collections import defaultdict
from typing import Any

from trainer.curriculum import coverage, difficulty, schedule
from trainer.methods import Method, Reward, TrainingData, too_few
from trainer.methods.sft import encoded
from trainer.methods.tokenised import TokenisedPrompts, tokenised
from trainer.replay import replaying
from trainer.rows import Row
from trainer.settings import Load
from trainer.workbench import Workbench

MIN_PROMPTS = 8
MAX_PROMPTS = 100
GENERATIONS = 8
PROMPTS_PER_STEP = 8
TEMPERATURE = 1.0


def prompts(data: TrainingData) -> list[Row]:
    """Rows with a right answer, an expert's first, each prompt once."""
    known: dict[str, Row] = {}
    for row in sorted(data.learned, key=lambda row: (row.author != "expert", row.completion_id)):
        known.setdefault(row.key, row)
    return list(known.values())


def lacking(data: TrainingData) -> str | None:
    return too_few(len(prompts(data)), MIN_PROMPTS, "prompts with a right answer")


def asked(data: TrainingData) -> tuple[list[Row], list[float]]:
    """The prompts of the run with their weights by difficulty: those the served model got wrong
    first, then those an expert answered, each chosen for coverage."""
    left, chosen = prompts(data), list[Row]()
    for wanted in (_was_wrong, _by_expert, _any):
        group = [row for row in left if wanted(row)]
        left = [row for row in left if not wanted(row)]
        chosen += coverage(group, MAX_PROMPTS - len(chosen))
    verdicts: dict[str, list[float]] = defaultdict(list)
    for row in data.rows:
        if row.kind in ("accepted", "rejected", "correction"):
            verdicts[row.key].append(1.0 if row.kind == "accepted" else 0.0)
    return chosen, difficulty(verdicts, [row.key for row in chosen])


def _was_wrong(row: Row) -> bool:
    return row.kind == "correction"


def _by_expert(row: Row) -> bool:
    return row.author == "expert"


def _any(row: Row) -> bool:
    return True


def build(data: TrainingData, bench: Workbench, reward: Reward) -> Any:
    """A GRPOTrainer over the whole run's prompts laid out in order."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    train = bench.task.train
    fitting = [row for row in data.rows if row.kind == "replay" or _fits(row, bench)]
    rows, weights = asked(TrainingData(tuple(fitting)))
    bench.encoder.enough(rows, MIN_PROMPTS, "prompts with a right answer")
    renderer = bench.encoder.renderer
    texts = [renderer.prompt_text(row.conversation) for row in rows]
    per_step = min(PROMPTS_PER_STEP, len(rows))
    replay, _ = encoded(data.replay, bench)
    asked_ids = [renderer.prompt_ids(row.conversation) for row in rows]
    longest = max(map(len, asked_ids)) + train.max_completion_tokens
    made = bench.settings("rft", Load(per_step * GENERATIONS, longest, len(rows)))
    order = schedule(weights, made.max_steps, per_step, train.seed)
    settings = GRPOConfig(
        **bench.arguments(
            "rft",
            made,
            num_generations=GENERATIONS,
            max_completion_length=train.max_completion_tokens,
            temperature=TEMPERATURE,
            beta=0.0,
            shuffle_dataset=False,
        )
    )
    pad = bench.tokenizer.pad_token_id
    trainer_class = tokenised(GRPOTrainer, TokenisedPrompts)
    return replaying(trainer_class, replay, pad=pad, seed=train.seed, parts=made.accumulation)(
        model=bench.base_model(),
        reward_funcs=reward(rows),
        args=settings,
        train_dataset=Dataset.from_list(
            [{"prompt": texts[index], "row": index} for index in order]
        ),
        processing_class=bench.tokenizer,
        peft_config=bench.lora(),
    )


def _fits(row: Row, bench: Workbench) -> bool:
    return bench.encoder.prompt(row) is not None


METHOD = Method("rft", 5.5, lacking, build)

"""RFT: GRPO with the task's graders as reward, on prompts of production, and the replay likelihood
term.

It learns from a grader, not from the text of references: any answer the grader accepts will do, and
a right answer is asked for only where the grader compares with one. What it asks is not replayed.
"""

from collections import defaultdict
from typing import Any

from trainer.anchor import beside
from trainer.curriculum import Curriculum, coverage, difficulty
from trainer.methods import Method, Reward, TrainingData, too_few
from trainer.methods.sft import encoded
from trainer.methods.tokenised import TokenisedPrompts, measured, telling, tokenised
from trainer.replay import adding
from trainer.rows import Row
from trainer.settings import Load
from trainer.workbench import Workbench

MIN_PROMPTS = 8
MAX_PROMPTS = 100
GENERATIONS = 8
PROMPTS_PER_STEP = 8
TEMPERATURE = 1.0


def prompts(data: TrainingData) -> list[Row]:
    """Each admitted prompt once, where a right answer is known with that, an expert's first."""
    rows = data.learned if data.reference else data.rows
    known: dict[str, Row] = {}
    for row in sorted(rows, key=_most_known_first):
        known.setdefault(row.key, row)
    return list(known.values())


def _most_known_first(row: Row) -> tuple[bool, bool, bool, str]:
    return row.target is None, row.author != "expert", not _was_wrong(row), row.completion_id


def lacking(data: TrainingData) -> str | None:
    return too_few(len(prompts(data)), MIN_PROMPTS, _what(data))


def _what(data: TrainingData) -> str:
    return "prompts with a right answer" if data.reference else "prompts"


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
    return row.kind in ("correction", "rejected", "prompt")


def _by_expert(row: Row) -> bool:
    return row.author == "expert"


def _any(row: Row) -> bool:
    return True


def build(data: TrainingData, bench: Workbench, reward: Reward) -> Any:
    """A GRPOTrainer that asks, at each step, what the steps before leave open."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    train = bench.task.train
    rows, weights = fitting(data, bench)
    texts = [bench.encoder.renderer.prompt_text(row.conversation) for row in rows]
    per_step = min(PROMPTS_PER_STEP, len(rows))
    keys = {row.key for row in rows}
    replay, _ = encoded([row for row in data.replay if row.key not in keys], bench)
    made = bench.settings("rft", load(rows, bench))
    kept = bench.folder / "rft-curriculum.jsonl"
    curriculum = Curriculum(weights, per_step, train.seed, kept)
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
    held = beside(replay, data, bench, made)
    trainer_class = measured(tokenised(GRPOTrainer, TokenisedPrompts), curriculum, texts)
    return adding(trainer_class, held)(
        model=bench.base_model(),
        reward_funcs=telling(reward(rows), curriculum),
        args=settings,
        train_dataset=Dataset.from_list(
            # Places alone: what is asked in them is drawn as the run goes.
            [{"prompt": texts[0], "row": 0}] * (made.max_steps * per_step)
        ),
        processing_class=bench.tokenizer,
        peft_config=bench.lora(),
    )


def fitting(data: TrainingData, bench: Workbench) -> tuple[list[Row], list[float]]:
    """The prompts of the run that the model can hold, with their weights; NotEnoughEvidence."""
    known = prompts(data)
    held = {row.key for row in known if bench.encoder.prompt(row) is not None}
    rows, weights = asked(
        TrainingData(tuple(row for row in data.rows if row.key in held), data.reference)
    )
    bench.encoder.enough(rows, MIN_PROMPTS, _what(data))
    return rows, weights


def load(rows: list[Row], bench: Workbench) -> Load:
    """What a run over these prompts has to hold."""
    longest = max(len(bench.encoder.renderer.prompt_ids(row.conversation)) for row in rows)
    per_step = min(PROMPTS_PER_STEP, len(rows))
    return Load(
        per_step * GENERATIONS,
        longest + bench.task.train.max_completion_tokens,
        len(rows),
        taught=per_step,
    )


METHOD = Method("rft", 5.5, lacking, build)

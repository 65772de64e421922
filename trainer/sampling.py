"""Asks the served model what `train.best_of` wants to know, before a snapshot is taken.

What was asked is written before the training begins: a run that is killed, and every later one,
finds it in the lake. The model is loaded only if there is something to ask.
"""

import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from evaluators.fill import label_salt_of
from everlearn.config import Service
from everlearn.lake.store import Lake
from everlearn.task import Task, base_model_path
from registry.versions import ModelVersion
from trainer.best_of import Source, candidates, draw, read_asked
from trainer.generate import answer_all
from trainer.plan import unrewarded
from trainer.reward import Grading, reward_grader
from trainer.rows import Row
from trainer.snapshot import Refuses, read_rows, select
from trainer.workbench import Workbench, seeded

TEMPERATURE = 1.0
"""As RFT samples."""


def ask_served(
    service: Service,
    task: Task,
    lake: Lake,
    champion: ModelVersion,
    *,
    salt: str,
    released: Collection[str] = (),
    refuses: Refuses | None = None,
    report: Callable[[str], None],
) -> int:
    """Ask what is new and write down what came of it; how many prompts were asked."""
    rules, reward = task.train.best_of, reward_grader(task)
    if rules is None:
        return 0
    why_not = unrewarded(lake, task, label_salt_of(salt))
    if why_not is not None or reward is None:
        report(f"best_of: nothing is asked: {why_not}")
        return 0
    grading = Grading(task, service, reward)
    try:
        source = Source(task, champion.version, grading.version, rules)
        rows = select(read_rows(lake, task, champion.version, released), task, salt, refuses)
        asked = candidates(rows, task, read_asked(lake, source), rules.prompts)
        if not asked:
            return 0
        with tempfile.TemporaryDirectory(prefix="everlearn-best-of-") as scratch:
            bench = Workbench(task, base_model_path(service, task), Path(scratch))
            model = bench.adapted(champion.path)

            def sample(rows: Sequence[Row], count: int) -> list[list[str]]:
                seeded(task.train.seed)
                prompts = [row.conversation for row in rows for _ in range(count)]
                longest = task.train.max_completion_tokens
                made = answer_all(model, bench.tokenizer, prompts, longest, temperature=TEMPERATURE)
                # What was cut is blank: no answer to learn from.
                texts = ["" if each.cut else each.text for each in made.answers]
                return [texts[at : at + count] for at in range(0, len(texts), count)]

            found = draw(asked, source, sample, grading.detailed)
    finally:
        grading.close()
    if found:
        lake.commit(lambda transaction: transaction.append("best_of", found))
    apart = sum(_lead(each["best_score"], each["worst_score"]) >= rules.margin for each in found)
    report(
        f"best_of: {len(asked)} prompts asked {rules.answers} times each, {len(found)} scored, "
        f"best and worst apart by {rules.margin:g} on {apart}"
    )
    return len(asked)


def _lead(best: float | None, worst: float | None) -> float:
    return 0.0 if best is None or worst is None else best - worst

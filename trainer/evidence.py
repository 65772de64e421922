"""What a candidate shows on held-out rows beside the champion: `evidence.json` of its run.

Champion and candidate answer the same prompts greedily, in the same form (adapter unmerged), and
one grader compares both with the right answer: an expert's (`source` expert, unbiased), or an
answer users accepted (`source` user, which favours the champion that gave it).
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from everlearn.errors import InputError
from everlearn.task import Task
from trainer.generate import Answers, Asked, answer_all
from trainer.rows import Row
from trainer.workbench import Workbench

Grade = Callable[[Sequence[Row], Sequence[str]], list[float | None]]
"""Scores of answers to the prompts of the rows; None = unscored."""

TIMED_PROMPTS = 16
TIMED_ROUNDS = 5


@dataclass(frozen=True)
class Exam:
    """One model's answers and scores on held-out rows, then on the regression suite."""

    scores: tuple[float | None, ...]
    suite: tuple[float | None, ...]
    mean_tokens: float
    """Per held-out answer."""


def examine(
    model: Any, bench: Workbench, grade: Grade, rows: Sequence[Row], suite: Sequence[Row]
) -> Exam:
    """Let the model answer all rows and grade the answers."""
    every = [*rows, *suite]
    made = answer(model, bench, [row.conversation for row in every])
    graded = grade(every, [each.text for each in made.answers])
    # What the model was not asked is unscored, not wrong.
    scores = [
        score if each.token_ids else None for score, each in zip(graded, made.answers, strict=True)
    ]
    lengths = [len(each.token_ids) for each in made.answers[: len(rows)]]
    cut = len(rows)
    return Exam(tuple(scores[:cut]), tuple(scores[cut:]), fmean(lengths) if lengths else 0.0)


def answer(model: Any, bench: Workbench, prompts: Sequence[Asked]) -> Answers:
    """Greedy answers, as long as the task trains them."""
    return answer_all(model, bench.tokenizer, prompts, bench.task.train.max_completion_tokens)


def mean(scores: Sequence[float | None]) -> float | None:
    """Of the scored ones; None if there are none."""
    known = [score for score in scores if score is not None]
    return fmean(known) if known else None


def regression_suite(task: Task) -> list[Row]:
    """The rows of `gate.regression_suite`; InputError naming the line that is wrong."""
    if task.gate.regression_suite is None:
        return []
    path = task.folder / task.gate.regression_suite
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise InputError(f"gate.regression_suite {path}: {error.strerror}") from error
    return [_suite_row(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _suite_row(path: Path, number: int, line: str) -> Row:
    try:
        content = json.loads(line)
        messages, reference = content["messages"], str(content["reference"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}:{number}: not {{messages, reference}}: {error}") from error
    return Row(
        completion_id=f"suite-{number}",
        unit="suite",
        kind="accepted",
        messages=messages,
        completion=reference,
        target=reference,
        author="expert",
    )


def latency_ratio(
    bench: Workbench, champion: Path | None, candidate: Path, prompts: Sequence[Asked]
) -> float | None:
    """Candidate's seconds over the champion's for the same prompts.

    Both adapters sit in one model and take turns; the fastest round of each counts. On the CPU it
    is the time of one thread's work: with load average 9 on two cores wall times of equal adapters
    differed by a factor of 3.
    """
    if not prompts:
        return None
    model = bench.adapted(champion)
    model.load_adapter(str(candidate), "candidate")
    best: dict[str, float] = {}
    with _steady(bench.uses_cpu) as clock:
        for _ in range(TIMED_ROUNDS):
            for name in ("default", "candidate"):
                model.set_adapter(name)
                model.eval()
                started = clock()
                answer(model, bench, prompts[:TIMED_PROMPTS])
                best[name] = min(clock() - started, best.get(name, math.inf))
    return best["candidate"] / best["default"]


@contextmanager
def _steady(on_cpu: bool) -> Iterator[Callable[[], float]]:
    """A clock that other processes do not disturb."""
    import torch

    if not on_cpu:
        yield time.monotonic
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield time.thread_time
    finally:
        torch.set_num_threads(threads)


def evidence(
    task: Task,
    names: tuple[str, str],
    rows: Sequence[Row],
    exams: tuple[Exam, Exam],
    *,
    grader: str,
    latency: float | None,
) -> dict[str, Any]:
    """`evidence.json`; `names` and `exams` are the champion's and the candidate's."""
    champion, candidate = exams
    before, after = mean(champion.suite), mean(candidate.suite)
    suite = None
    if before is not None and after is not None:
        suite = {"champion": before, "candidate": after, "rows": len(champion.suite)}
    return {
        "task": task.task,
        "champion": names[0],
        "candidate": names[1],
        "heldout_grader": grader,
        "rows": [
            {
                "prompt_key": row.key,
                "unit": row.unit,
                "champion": old,
                "candidate": new,
                "source": "expert" if row.author == "expert" else "user",
            }
            for row, old, new in zip(rows, champion.scores, candidate.scores, strict=True)
        ],
        "regression": suite,
        "latency_ratio": latency,
        "length_ratio": candidate.mean_tokens / champion.mean_tokens
        if champion.mean_tokens
        else None,
    }

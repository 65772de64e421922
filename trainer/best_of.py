"""Pairs where nobody labelled: the served model answers a prompt several times, the reward grades.

- Asked are prompts of the training side alone, those RFT would ask first; where the reward
  compares with no right answer, only prompts that nobody has judged. Each once per version, reward
  and number of answers, so that a training asks what is new.
- The best answer is preferred to the worst where the reward tells them apart by
  `train.best_of.margin`; else the prompt teaches nothing.
- Only answers of the version that serves now are taught; people outvote the reward, and no exam is
  made of a pair.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from everlearn.lake.store import Lake
from everlearn.rules import BestOf
from everlearn.task import Task
from trainer.reward import Verdict, needs_reference, reward_grader
from trainer.rows import BEST_OF, UNJUDGED, Row, fold

Sampler = Callable[[Sequence[Row], int], list[list[str]]]
"""So many answers of the served model to each row's prompt."""
Grade = Callable[[Sequence[Row], Sequence[str]], list[Verdict]]

_DRAWN = """
    SELECT completion_id, prompt_key, best, worst, best_score, worst_score FROM best_of
    WHERE task = ? AND version = ?
    QUALIFY row_number() OVER (PARTITION BY prompt_key ORDER BY created_at DESC) = 1
    ORDER BY completion_id
"""
_ASKED = """
    SELECT prompt_key FROM best_of
    WHERE task = ? AND version = ? AND grader_version = ? AND answers = ?
"""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One prompt, and what the reward made of the answers to it."""

    completion_id: str
    prompt_key: str
    best: str | None
    worst: str | None
    best_score: float | None
    worst_score: float | None

    def apart(self, margin: float) -> bool:
        """Whether the reward tells best and worst apart."""
        if self.best_score is None or self.worst_score is None:
            return False
        return self.best_score - self.worst_score >= margin


@dataclass(frozen=True)
class Source:
    """Whose answers they are, and by what they are graded."""

    task: Task
    version: str
    grader_version: str
    rules: BestOf


def candidates(rows: Sequence[Row], task: Task, known: Collection[str], most: int) -> list[Row]:
    """The prompts to ask, of the rows of a snapshot; `known` were asked before."""
    from trainer.methods import TrainingData, rft

    reward = reward_grader(task)
    if reward is None:
        return []
    reference = needs_reference(task, reward)
    training = [row for row in rows if row.split == "train"]
    judged = {row.key for row in training if row.kind not in UNJUDGED}
    left = [
        row for row in training if row.key not in known and (reference or row.key not in judged)
    ]
    return rft.asked(TrainingData(tuple(left), reference))[0][:most]


def draw(
    rows: Sequence[Row], source: Source, sample: Sampler, grade: Grade
) -> list[dict[str, Any]]:
    """The rows' prompts answered and graded, as table `best_of` keeps them; a prompt whose answers
    nobody could score is left out, so that it is asked again."""
    count = source.rules.answers
    texts = [text for answers in sample(rows, count) for text in answers]
    verdicts = grade([row for row in rows for _ in range(count)], texts)
    found = []
    for place, row in enumerate(rows):
        span = slice(place * count, (place + 1) * count)
        drawn = ends(row, texts[span], [each.value for each in verdicts[span]])
        if drawn is not None:
            found.append(
                {
                    **asdict(drawn),
                    "task": source.task.task,
                    "unit": row.unit,
                    "version": source.version,
                    "grader_version": source.grader_version,
                    "answers": count,
                    "created_at": datetime.now(UTC),
                }
            )
    return found


def ends(row: Row, texts: Sequence[str], values: Sequence[float | None]) -> Drawn | None:
    """The best and the worst of the answers, the first of equals; None where none is scored."""
    scored = [(value, text) for value, text in zip(values, texts, strict=True) if value is not None]
    if not scored:
        return None
    # What is blank is no answer to learn from, on either side.
    said = [each for each in scored if each[1].strip()]
    best, worst = (
        (max(said, key=lambda each: each[0]), min(said, key=lambda each: each[0]))
        if said
        else ((None, None), (None, None))
    )
    return Drawn(
        completion_id=row.completion_id,
        prompt_key=row.key,
        best=best[1],
        worst=worst[1],
        best_score=best[0],
        worst_score=worst[0],
    )


def read_drawn(lake: Lake, task: str, version: str) -> list[Drawn]:
    """The latest of each prompt, of answers of that version."""
    return [Drawn(**record) for record in lake.read(_DRAWN, [task, version]).to_pylist()]


def read_asked(lake: Lake, source: Source) -> set[str]:
    """Keys of the prompts that need not be asked again."""
    asked = [source.task.task, source.version, source.grader_version, source.rules.answers]
    return set(lake.read(_ASKED, asked).column("prompt_key").to_pylist())


def with_pairs(
    rows: Sequence[Row], answers: Mapping[str, Row], drawn: Sequence[Drawn], task: Task
) -> list[Row]:
    """The rows, and the pairs beside them; `answers` are those whose prompts were asked."""
    rules = task.train.best_of
    if rules is None:
        return list(rows)
    people = [row for row in rows if row.kind not in UNJUDGED]
    wrong = {(row.key, fold(row.completion)) for row in people if row.kind == "rejected"}
    right = {(row.key, fold(row.answer)) for row in people if row.target is not None}

    def paired(each: Drawn) -> Row:
        row = _row(answers[each.completion_id], each, task.train.verdict_weight)
        if (row.key, fold(row.answer)) in wrong or (row.key, fold(row.completion)) in right:
            return replace(row, dropped_reason="people_disagree")
        return row

    told = [each for each in drawn if each.completion_id in answers and each.apart(rules.margin)]
    return [*rows, *map(paired, told)]


def _row(asked: Row, drawn: Drawn, weight: float) -> Row:
    return replace(
        asked,
        kind="preference",
        completion=drawn.worst or "",
        said=None,
        target=drawn.best,
        target_message=None,
        author=BEST_OF,
        weight=weight,
        raters=(BEST_OF,),
        finish_reason=None,
        prompt_token_ids=None,
        completion_token_ids=None,
        verdicts={},
    )

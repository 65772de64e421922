"""How far a rubric judge agrees with experts on each criterion.

- Counted as `evaluators/judges.py` counts the whole: labels of the *certify* half, without verdicts
  that had seen the same expert's word; it decides nothing by itself, and says what to mend.
- What experts say of the criteria of `labels.rubric` counts for every rubric judge that asks the
  same: the same name and the same text.
- A criterion that was not asked, since a gate failed before it, is no verdict.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluators.experts import Label, criterion_labels
from evaluators.graders.base import Base
from evaluators.intervals import Confusion, confusion, share
from evaluators.judges import SHOWN, saw
from everlearn.graders import RubricModel
from everlearn.lake.store import Lake
from everlearn.task import Task
from everlearn.tolerant import UNREADABLE, loads

_VERDICTS = """
SELECT completion_id, sub_scores, context, created_at FROM scores
WHERE task = $1 AND evaluator = $2 AND evaluator_version = $3 AND value IS NOT NULL
    AND completion_id BETWEEN $4 AND $5 AND completion_id IN (SELECT unnest($6::VARCHAR[]))
ORDER BY created_at
"""


@dataclass(frozen=True)
class Agreed:
    """One criterion of one judge against the experts; bounds at 95 %, clustered by unit."""

    grader: str
    criterion: str
    labels: int
    """Certified ones that it has a verdict on."""
    units: int
    agreement: float | None
    lower: float
    upper: float
    confusion: Confusion | None
    disagreements: list[str]
    """A few answers, the latest first."""

    def __str__(self) -> str:
        if self.agreement is None or self.confusion is None:
            return f"criterion {self.criterion}: no verdict on a certified label"
        kappa = self.confusion.kappa
        table = self.confusion
        return (
            f"criterion {self.criterion}: agreement {self.agreement:.3f} [{self.lower:.3f}, "
            f"{self.upper:.3f}] on {self.labels} labels of {self.units} users, kappa "
            f"{'not defined' if kappa is None else f'{kappa:.2f}'}; "
            f"too kind {table.judge_too_kind}, too strict {table.judge_too_strict}"
        )


def by_criterion(lake: Lake, task: Task, graders: Sequence[Base[Any]], salt: str) -> list[Agreed]:
    """Of the rubric judges among `graders`, each criterion that experts spoke of; `salt`:
    `fill.label_salt`. The lake is not read where labels have no rubric."""
    asked = {each.name: each.text for each in task.criteria}
    judges = [each for each in graders if asked and isinstance(each.spec, RubricModel)]
    if not judges:
        return []
    labels = {
        name: [each for each in told if each.half == "certify"]
        for name, told in criterion_labels(lake, task, salt).items()
    }
    found = []
    for judge in judges:
        verdicts = _verdicts(lake, task, judge, labels)
        for criterion in judge.spec.criteria:
            if asked.get(criterion.name) == criterion.text and labels.get(criterion.name):
                found.append(_agreed(judge, criterion.name, labels[criterion.name], verdicts))
    return found


Verdicts = Mapping[str, list[tuple[Mapping[str, Any], dict[str, Any]]]]
"""Rows of `scores` with their criteria, by completion, in the order in which they were made."""


def _verdicts(
    lake: Lake, task: Task, judge: Base[Any], labels: Mapping[str, Sequence[Label]]
) -> Verdicts:
    ids = sorted({each.completion_id for told in labels.values() for each in told})
    found: dict[str, list[tuple[Mapping[str, Any], dict[str, Any]]]] = defaultdict(list)
    if ids:
        params = [task.task, judge.name, judge.version, ids[0], ids[-1], ids]
        for row in lake.read(_VERDICTS, params).to_pylist():
            try:
                met = loads(row["sub_scores"] or "{}")
            except UNREADABLE:
                continue
            if isinstance(met, dict):
                found[row["completion_id"]].append((row, met))
    return found


def _agreed(
    judge: Base[Any], criterion: str, labels: Sequence[Label], verdicts: Verdicts
) -> Agreed:
    pairs: list[tuple[Label, bool]] = []
    for label in labels:
        values = [
            met[criterion]
            for row, met in verdicts.get(label.completion_id, ())
            if met.get(criterion) is not None and not saw(judge, row, label)
        ]
        if values:
            pairs.append((label, values[-1] >= 0.5))
    apart = [label for label, met in pairs if met != label.good]
    units = [label.unit for label, _ in pairs]
    sure = share([float(met == label.good) for label, met in pairs], units) if pairs else None
    return Agreed(
        grader=judge.name,
        criterion=criterion,
        labels=len(pairs),
        units=len(set(units)),
        agreement=sure.value if sure else None,
        lower=sure.lower if sure else 0.0,
        upper=sure.upper if sure else 1.0,
        confusion=confusion([(met, label.good) for label, met in pairs]) if pairs else None,
        disagreements=[
            each.completion_id for each in sorted(apart, key=lambda label: label.given_at)
        ][: -SHOWN - 1 : -1],
    )

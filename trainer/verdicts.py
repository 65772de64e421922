"""What graders, and judges that agree with experts, say of answers that nobody judged.

- An answer that fails one of `train.verdicts` is rejected; it is no replay any more.
- One that passes all of them is taught only where another answer to the same prompt failed: what
  the model does right anyway is replay, and a thousand such rows would drown what people said.
- Of what strangers said they confirm what they find too: it weighs more then (`trainer.admit`).
- Their weight, `train.verdict_weight`, is below people's, and no exam is made of them.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace

from evaluators.labels import agreements
from everlearn.graders import FeedbackGrader, Judging, Multi, ScoreModel
from everlearn.lake.store import Lake
from everlearn.task import Task
from trainer.distil import passing
from trainer.rows import Row, accept

AUTHOR = "verdict"


def heard(lake: Lake, task: Task) -> dict[str, str | None]:
    """The graders named, and why one of them is not heard."""
    names = task.train.verdicts
    if not names:
        return {}
    least, trusted = task.judges.min_agreement, task.judges.trusted
    agreed = {each.grader: each for each in agreements(lake, task)}
    found: dict[str, str | None] = {}
    for name in names:
        found[name] = None
        grader = task.grader(name)
        if isinstance(grader, FeedbackGrader):
            found[name] = "is people's own word, which is taught already"
        elif name not in trusted and (
            isinstance(grader, Judging | Multi) or name in task.judges.drafted
        ):
            each = agreed.get(name)
            lower = 0.0 if each is None else each.lower
            if lower < least:
                labels = 0 if each is None else each.labels
                found[name] = (
                    f"agrees with experts in at least {lower:.2f} < {least:g} on {labels} labels"
                )
    return found


def by_verdicts(rows: Sequence[Row], task: Task, names: Collection[str]) -> list[Row]:
    """Ordinary rows, those that failed rejected, those that passed taught where one failed."""
    if not names:
        return list(rows)
    verdicts = [_verdict(row, task, names) for row in rows]
    failed = {row.key for row, good in zip(rows, verdicts, strict=True) if good is False}
    return [_row(row, good, failed, task) for row, good in zip(rows, verdicts, strict=True)]


def seconded(rows: Sequence[Row], task: Task, names: Collection[str]) -> list[Row]:
    """Judged rows, confirmed where all of these graders say the same of the answer."""
    return [
        replace(row, confirmed=True)
        if names
        and row.kind in ("accepted", "rejected")
        and _verdict(row, task, names) is (row.kind == "accepted")
        else row
        for row in rows
    ]


def _row(row: Row, good: bool | None, failed: Collection[str], task: Task) -> Row:
    weight = task.train.verdict_weight
    if good is False:
        return replace(row, kind="rejected", author=AUTHOR, weight=weight, raters=(AUTHOR,))
    if good and row.key in failed:
        return replace(accept(row, author=AUTHOR, weight=weight), raters=(AUTHOR,))
    return row


def _verdict(row: Row, task: Task, names: Collection[str]) -> bool | None:
    """Whether all that scored it pass it; None when somebody has not, or it is in between."""
    good: bool | None = True
    for name in names:
        value = row.verdicts.get(name)
        grader = task.grader(name)
        if value is not None and value <= _lowest(task, name):
            return False
        if value is None or value < passing(grader):
            good = None
    return good


def _lowest(task: Task, name: str) -> float:
    """The value that says wrong."""
    grader = task.grader(name)
    if isinstance(grader, ScoreModel):
        low, high = grader.range
        return low + 0.2 * (high - low)
    return 0.0

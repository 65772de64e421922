"""What people do with an answer, read as the task declares it: `feedback: {copied: {means: good}}`.

- A signal that is declared is a word for or against the answer with a weight below a thumb's; one
  that is not declared says nothing.
- Who also says what he thinks is heard by that alone.
- `edited` and the like may carry the text that the answer was made into: that is a suggestion, as
  every correction by a user is.
"""

from collections.abc import Sequence
from dataclasses import replace

from everlearn.opinion import OffScale, value_of
from everlearn.task import Task
from trainer.judge import Judgement


def implied(given: Sequence[Judgement], task: Task, name: str) -> list[Judgement]:
    """The feedback with every declared signal as a binary word under `name`."""
    explicit = {_who(each) for each in given if each.name not in task.signals and _explicit(each)}
    found = []
    for each in given:
        if each.name not in task.signals:
            # An action nobody has declared may mean anything.
            found += [each] if _explicit(each) or each.name == name else []
        elif _who(each) not in explicit and _happened(each, task):
            found.append(_word(each, task, name))
    return found


def _word(given: Judgement, task: Task, name: str) -> Judgement:
    rule = task.feedback[given.name]
    told = 1.0 if given.weight is None else given.weight
    return replace(
        given,
        kind="binary",
        name=name,
        value_bool=rule.means == "good",
        value_number=None,
        value_text=None,
        weight=told * rule.weight,
    )


def _explicit(given: Judgement) -> bool:
    return given.kind != "implicit"


def _happened(given: Judgement, task: Task) -> bool:
    """Whether it was done: said so by a value above the middle of its scale, or by no value."""
    try:
        value = value_of({**vars(given), "kind": "implicit"}, task.scales)
    except OffScale:
        return False
    return value is None or value > 0.5


def _who(given: Judgement) -> tuple[str, str | None]:
    return given.completion_id, given.author_id or given.key_id

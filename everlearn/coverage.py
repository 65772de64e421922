"""Which graders have a verdict on every answer, and which only where people said something.

A metric that only some answer compares those who answer: where the satisfied of one version answer
oftener, it rises though nobody is more satisfied.
"""

import json
import re
from collections.abc import Mapping, Sequence

from everlearn.graders import (
    Execution,
    FeedbackGrader,
    Grader,
    JsonSchema,
    Multi,
    PythonGrader,
    StringCheck,
    TextSimilarity,
)

DETERMINISTIC = (StringCheck, TextSimilarity, JsonSchema, Execution, PythonGrader)
"""No model's opinion."""
_OF_PEOPLE = re.compile(r"\bitem\.(reference|correction|thumbs)\b")
_IN_SOURCE = re.compile(r"\b(reference|correction|thumbs|feedback)\b")


def needs_people(grader: Grader, others: Sequence[Grader]) -> bool:
    """Whether it is unscored until a person has said something; `others`: of the same task."""
    if isinstance(grader, FeedbackGrader):
        return True
    if isinstance(grader, Multi):
        return any(needs_people(part, others) for part in _parts(grader, others))
    if isinstance(grader, PythonGrader):
        return _IN_SOURCE.search(grader.source) is not None
    return _OF_PEOPLE.search(json.dumps(grader.model_dump(mode="json"))) is not None


def feedback_names(grader: Grader, others: Sequence[Grader]) -> frozenset[str]:
    """Names of the feedback that it counts."""
    if isinstance(grader, FeedbackGrader):
        return frozenset({grader.feedback})
    if isinstance(grader, Multi):
        return frozenset().union(*(feedback_names(one, others) for one in _parts(grader, others)))
    return frozenset()


def deterministic(grader: Grader, others: Sequence[Grader]) -> bool:
    """Whether no model's opinion is part of it."""
    if isinstance(grader, Multi):
        return all(deterministic(part, others) for part in _parts(grader, others))
    return isinstance(grader, DETERMINISTIC)


def first_on_every_answer(graders: Sequence[Grader]) -> str | None:
    """Of the first deterministic grader that waits for nobody."""
    for grader in graders:
        if deterministic(grader, graders) and not needs_people(grader, graders):
            return grader.name
    return None


def _parts(multi: Multi, others: Sequence[Grader]) -> list[Grader]:
    if multi.graders:
        return list(multi.graders.values())
    known: Mapping[str, Grader] = {other.name: other for other in others}
    words = re.findall(r"\w+", multi.calculate_output)
    return [known[word] for word in words if word in known and known[word] is not multi]

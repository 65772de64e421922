"""Human labels: how one is told and taken back, how far a grader agrees with them.

A label is an expert's feedback and takes the way of all feedback: through the gateway.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from evaluators.experts import CRITERION
from evaluators.queue import Item
from everlearn.errors import EverlearnError, InputError, NotFound
from everlearn.graders import FeedbackGrader as Feedback
from everlearn.graders import ScoreModel
from everlearn.lake.store import Lake
from everlearn.task import Task

THUMBS, RATING = "thumbs", "rating"
"""Names of the feedback that labels are."""
RATINGS, RIGHT_ABOVE, _OF_5 = ("1", "2", "3", "4", "5"), 3, " of 5"
_PAIRS = """
WITH human AS (
    SELECT f.completion_id, arg_max(CASE f.kind WHEN 'binary' THEN f.value_bool
        WHEN 'scalar' THEN CASE WHEN f.value_number <> 3 THEN f.value_number > 3 END
        ELSE trim(f.value_text) = trim(c.response_text) END,
        f.given_at) AS good
    FROM feedback_joined f JOIN completions c USING (completion_id)
    WHERE f.task = $1 AND f.author = 'expert'
        AND (f.kind IN ('binary', 'correction') OR (f.kind = 'scalar' AND f.name = 'rating'))
        AND NOT f.ambiguous
    GROUP BY f.completion_id
),
verdicts AS (
    SELECT completion_id, arg_max_null(value, created_at) AS value FROM scores
    WHERE task = $1 AND evaluator = $2 GROUP BY completion_id
)
SELECT v.value, h.good FROM human h JOIN verdicts v USING (completion_id)
WHERE v.value IS NOT NULL AND h.good IS NOT NULL
"""


class GatewayError(EverlearnError, OSError):
    """The gateway did not answer, or could not take a label now."""

    exit_code = 4


class LabelRefused(GatewayError):
    """The gateway will not take it, asked again or not."""

    exit_code = 2


@dataclass(frozen=True)
class Agreement:
    """How far a grader agrees with experts on the same answers; bounds at 95 %."""

    grader: str
    labels: int
    agreement: float | None
    lower: float
    upper: float
    alpha: float | None
    """Krippendorff's, nominal: 1 perfect, 0 as by chance; null where it is not defined."""


def label(
    completion_id: str,
    *,
    verdict: bool | int | None,
    criteria: Mapping[str, bool] | None = None,
    correction: str | None = None,
    comment: str | None = None,
    author_id: str | None = None,
    name: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """The body of `POST /v1/feedback` for one label; InputError when it says nothing.

    `verdict`: right or wrong, or 1 to 5. What is said of a criterion is no word on the whole.
    """
    correction, comment = (correction or "").strip() and correction, (comment or "").strip()
    rated = verdict is not None and not isinstance(verdict, bool)
    if correction and verdict is not None and verdict > (RIGHT_ABOVE if rated else 0):
        raise InputError("a correction says that the answer is wrong: it is down, or has none")
    shared = _shared(completion_id, name or (RATING if rated else THUMBS), author_id)
    shared |= {"tags": dict(tags)} if tags else {}
    events: list[dict[str, Any]] = []
    note = {"comment": comment} if comment else {}
    if verdict is not None:
        kind = "scalar" if rated else "binary"
        events.append({**shared, "kind": kind, "value": verdict, **note})
        note = {}
    if correction:
        events.append({**shared, "kind": "correction", "value": correction, **note})
    if not events:
        raise InputError("a label is up, down, 1 to 5 or a correction")
    for criterion, met in (criteria or {}).items():
        told = "yes" if met else "no"
        events.append({**shared, "name": CRITERION + criterion, "kind": "label", "value": told})
    return events


def read_verdict(text: str) -> bool | int | None:
    """`up`, `down` or `1` to `5`; None for anything else."""
    if text in ("up", "down"):
        return text == "up"
    return int(text) if text in RATINGS else None


def read_criteria(task: Task, told: Mapping[str, str]) -> dict[str, bool]:
    """Yes or no by criterion, those without left out; InputError for one that the task has not."""
    known = {each.name for each in task.criteria}
    found = {}
    for name, value in told.items():
        if name not in known or value not in ("yes", "no"):
            allowed = ", ".join(sorted(known)) or "none: labels.rubric names none"
            raise InputError(f"criterion {name}={value}: yes or no of: {allowed}")
        found[name] = value == "yes"
    return found


def names_of(task: Task, item: Item) -> list[str]:
    """Of the feedback that the label of an item was."""
    whole = RATING if (item.verdict or "").endswith(_OF_5) else THUMBS
    return [whole, *(CRITERION + each.name for each in task.criteria)]


def retraction(
    completion_id: str, *, author_id: str | None = None, names: Iterable[str] = ("thumbs",)
) -> list[dict[str, Any]]:
    """The body of `POST /v1/feedback` that takes back whatever its author said of the answer."""
    return [{**_shared(completion_id, name, author_id), "kind": "retraction"} for name in names]


def tags_of(item: Item) -> dict[str, str]:
    """How the queue came to ask: told beside the label, so that the lake knows whom to count."""
    if item.probability is None:
        return {"asked": item.source}
    return {"asked": item.source, "probability": f"{item.probability:.9g}"}


def verdict_of(events: Sequence[Mapping[str, Any]]) -> str:
    """A label in one word."""
    kinds = {event["kind"]: event["value"] for event in events}
    if "correction" in kinds:
        return "corrected"
    if "scalar" in kinds:
        return f"{kinds['scalar']}{_OF_5}"
    return "right" if kinds["binary"] else "wrong"


def must_be_answer(lake: Lake, task: str, name: str) -> None:
    """InputError for an id of no answer of the task: a label there would wait for ever.

    `name`: ours, the upstream's or the caller's, as feedback takes them.
    """
    sql = (
        "SELECT DISTINCT task, status = 'erased' AS erased FROM completions "
        "WHERE completion_id = $1 OR upstream_id = $1 OR request_id = $1"
    )
    found = lake.read(sql, [name]).to_pylist()
    tasks = [row["task"] for row in found if not row["erased"]]
    if found and not tasks:
        raise NotFound(f"{name}: was erased: nothing is left of it that could be labelled")
    if not tasks:
        raise NotFound(
            f"{name}: no such answer in the lake, or not yet: `everlearn status` says what is "
            f"pending, `everlearn labels next {task}` what may be labelled"
        )
    if task not in tasks:
        raise InputError(f"{name}: an answer of {tasks[0] or 'no task'}, not of task {task}")


def send(gateway: str, events: Sequence[Mapping[str, Any]], key: str | None = None) -> None:
    """Post to the gateway; GatewayError when it does not take them."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        answer = httpx.post(
            f"{gateway}/v1/feedback", json=list(events), headers=headers, timeout=10
        )
    except httpx.HTTPError as error:
        raise GatewayError(
            f"{gateway}: no answer: {type(error).__name__}: is the gateway up, and there?"
        ) from error
    status = answer.status_code
    if status != 202:
        said = f"{gateway}: answered {status}: {answer.text[:200]}"
        if status in (401, 403):
            said += "; the key comes from $EVERLEARN_API_KEY"
        raise (LabelRefused if 400 <= status < 500 and status != 429 else GatewayError)(said)


def agreements(lake: Lake, task: Task) -> list[Agreement]:
    """Of each grader that does not itself read feedback, over the answers experts have judged."""
    return [
        agreement(
            grader.name,
            [
                (row["value"] >= _middle(grader), row["good"])
                for row in lake.read(_PAIRS, [task.task, grader.name]).to_pylist()
            ],
        )
        for grader in task.graders
        if not isinstance(grader, Feedback)
    ]


def agreement(grader: str, pairs: Iterable[tuple[bool, bool]]) -> Agreement:
    """Of (grader says good, expert says good)."""
    rows = list(pairs)
    if not rows:
        return Agreement(grader, 0, None, 0.0, 1.0, None)
    equal = sum(ours == theirs for ours, theirs in rows)
    lower, upper = wilson(equal, len(rows))
    return Agreement(grader, len(rows), equal / len(rows), lower, upper, alpha(rows))


def alpha(pairs: Sequence[tuple[bool, bool]]) -> float | None:
    """Krippendorff's alpha of two coders on the same answers; None when all say the same."""
    total = 2 * len(pairs)
    good = sum(ours + theirs for ours, theirs in pairs)
    expected = 2 * good * (total - good) / (total * (total - 1))
    observed = sum(ours != theirs for ours, theirs in pairs) / len(pairs)
    return 1 - observed / expected if expected else None


def wilson(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's interval of a share."""
    share, spread = successes / trials, z * z / trials
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / trials + spread / (4 * trials))
    return max(0.0, middle - half), min(1.0, middle + half)


def _shared(completion_id: str, name: str, author_id: str | None) -> dict[str, Any]:
    shared = {"completion_id": completion_id, "name": name, "author": "expert"}
    return shared | ({"author_id": author_id} if author_id else {})


def _middle(grader: Any) -> float:
    return sum(grader.range) / 2 if isinstance(grader, ScoreModel) else 0.5

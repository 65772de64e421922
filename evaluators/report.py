"""`everlearn judges`: every grader's standing, and how many of each version's answers are right.

The rates are kept in the state store, so that `status` shows them without counting again.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

from evaluators.criteria import Agreed, by_criterion
from evaluators.experts import Label, expert_labels
from evaluators.fill import label_salt, scale
from evaluators.graders import build_all
from evaluators.graders.base import Base
from evaluators.judge.budget import Spending, spending
from evaluators.judges import Standing, standings_of
from evaluators.labellers import Labellers, labellers
from evaluators.ppi import MIN_LABELS, Labelled, Rate, Seen, alone, rate
from everlearn.config import Service
from everlearn.graders import FeedbackGrader, Multi
from everlearn.lake.store import Lake
from everlearn.state import State, StateConflict, open_state
from everlearn.task import Task

KEPT = "judges"
ALONE = "labels alone"

_SEEN = """
WITH latest AS (
    SELECT completion_id, greatest(0, least(1, (arg_max_null(value, created_at) - $4) / ($5 - $4)))
        AS value
    FROM scores WHERE task = $1 AND evaluator = $2 AND evaluator_version = $3 GROUP BY completion_id
)
SELECT coalesce(c.unit, c.completion_id) AS unit, sum(value) AS judged, count(*) AS answers
FROM completions c JOIN latest l USING (completion_id)
WHERE c.task = $1 AND c.version = $6 AND c.status = 'ok' AND l.value IS NOT NULL GROUP BY ALL
"""
_VALUES = """
SELECT completion_id, greatest(0, least(1, (arg_max_null(value, created_at) - $4) / ($5 - $4)))
    AS value
FROM scores WHERE task = $1 AND evaluator = $2 AND evaluator_version = $3
    AND completion_id IN (SELECT unnest($6::VARCHAR[]))
GROUP BY completion_id
"""


class Report(NamedTuple):
    """Of one task."""

    graders: list[Standing]
    rates: list[tuple[str, dict[str, Any]]]
    """By grader: one of its rates, with the version."""
    spending: Spending | None
    """Of today; None without a limit."""
    labellers: Labellers
    criteria: list[Agreed]
    """Of rubric judges, where experts say of criteria whether they are met."""


def report(service: Service, task: Task, lake: Lake) -> Report:
    """Count, and keep the rates."""
    graders = build_all(task, service)
    labels = expert_labels(lake, task, label_salt(service))
    rates = [
        (name, {"version": version, **found._asdict()})
        for version, asked in _by_version(labels).items()
        for name, found in _rates(lake, task, graders, version, asked)
    ]
    with closing(open_state(service)) as state:
        _keep(state, task, rates)
        spent = spending(state, task)
    standings = standings_of(lake, task, graders, labels)
    met = by_criterion(lake, task, graders, label_salt(service))
    return Report(standings, rates, spent, labellers(lake, task), met)


def kept(state: State, task: str) -> list[dict[str, Any]]:
    """The rates of the latest report, with their time."""
    found = state.get(KEPT, task)
    if found is None:
        return []
    return [{**rate, "at": found[0]["at"]} for rate in found[0]["rates"]]


def _by_version(labels: list[Label]) -> dict[str, list[Label]]:
    """Labels of the random share, of versions with enough of them."""
    found: dict[str, list[Label]] = {}
    for label in labels:
        if label.probability is not None and label.version is not None:
            found.setdefault(label.version, []).append(label)
    return {name: rows for name, rows in sorted(found.items()) if len(rows) >= MIN_LABELS}


def _rates(
    lake: Lake, task: Task, graders: Sequence[Base[Any]], version: str, labels: list[Label]
) -> Iterator[tuple[str, Rate]]:
    """By labels alone, and by every grader that judges all answers alike."""
    by_labels = alone(_labelled(labels, dict.fromkeys(_names(labels), 0.0)))
    if by_labels is not None:
        yield ALONE, by_labels
    for grader in graders:
        # What an expert told changes these where he told it: they judge his answers otherwise.
        biased = grader.needs_reference or grader.needs_feedback
        if biased or isinstance(grader.spec, FeedbackGrader | Multi):
            continue
        params = [task.task, grader.name, grader.version, *scale(grader)]
        values = lake.read(_VALUES, [*params, _names(labels)]).to_pylist()
        seen = {
            row["unit"]: Seen(row["judged"], row["answers"])
            for row in lake.read(_SEEN, [*params, version]).to_pylist()
        }
        people = _labelled(labels, {row["completion_id"]: row["value"] for row in values})
        if seen and (found := rate(seen, people)) is not None:
            yield grader.name, found


def _labelled(labels: Sequence[Label], values: Mapping[str, float | None]) -> list[Labelled]:
    return [
        Labelled(label.unit, value, float(label.good), label.probability)
        for label in labels
        if label.probability is not None
        if (value := values.get(label.completion_id)) is not None
    ]


def _names(labels: Sequence[Label]) -> list[str]:
    return [label.completion_id for label in labels]


def _keep(state: State, task: Task, rates: list[tuple[str, dict[str, Any]]]) -> None:
    rows = [{"grader": name, **rate} for name, rate in rates]
    found = state.get(KEPT, task.task)
    with suppress(StateConflict):  # another report was as new
        document = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "rates": rows}
        state.put(KEPT, task.task, document, found[1] if found else 0)

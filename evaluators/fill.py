"""Fills the label queue: a random share, an audit of raters, and what is most worth a label.

- By chance: a salted hash of the completion's id below `labels.random_percent`, so the choice is
  the same whenever it is made, and nothing that the answer says has a part in it.
- Audit: of what each rater said a known share, so that nobody is never met (`evaluators.audit`).
- Most worth: where judges, graders and feedback disagree on one scale, and where a judge is unsure.
- Each call looks at what the lake's snapshots brought since the one before; the first one, and one
  whose snapshot has expired, at everything.
"""

import hashlib
from collections.abc import Mapping
from contextlib import closing, suppress
from typing import Any, NamedTuple

from evaluators.audit import Word, draw
from evaluators.graders import build_all
from evaluators.graders.base import Base
from evaluators.queue import Candidate, Queue, Source
from everlearn.config import Service
from everlearn.errors import LakeError
from everlearn.graders import Judging, Multi, ScoreModel
from everlearn.installation import heldout_salt
from everlearn.lake.store import Lake
from everlearn.state import State, StateConflict, open_state
from everlearn.task import Task

MARK = "label_queue"
MIN_WORTH = 0.3
"""Spread of the verdicts, or doubt of a judge, from 0 to 1, that is worth somebody's time."""

_CONTENT = "substr(sha256(coalesce(messages, '') || chr(30) || response_text), 1, 32)"
_ANSWERED = "task = $1 AND status = 'ok' AND response_text IS NOT NULL"
_RANDOM = f"""
SELECT completion_id, {_CONTENT} AS content, place FROM (
    SELECT *, ('0x' || substr(sha256($2 || completion_id), 1, 13))::BIGINT / 2.0 ** 52 AS place
    FROM {{completions}} WHERE {_ANSWERED})
WHERE place < $3 ORDER BY place, completion_id LIMIT $4
"""
_SPOKEN = """
SELECT DISTINCT target AS id FROM lake.table_insertions('feedback', {after:d}, {until:d})
WHERE task = $1 AND target IS NOT NULL
"""
_WORDS = f"""
WITH words AS (
    SELECT coalesce(nullif(f.author_id, ''), '/' || f.key_id, c.unit, c.completion_id) AS rater,
        c.completion_id, min(f.received_at) AS at,
        arg_max(f.value_bool OR f.kind = 'preference', f.received_at) AS good
    FROM feedback f JOIN completions c ON c.completion_id = f.target
    WHERE f.task = $1 AND f.author = 'end_user' AND f.kind IN ('binary', 'scalar', 'preference')
        AND c.{_ANSWERED}
    GROUP BY ALL
),
experts AS (
    SELECT target, arg_max(kind = 'binary' AND value_bool, received_at) AS good
    FROM feedback WHERE task = $1 AND author = 'expert' AND kind IN ('binary', 'correction')
    GROUP BY target
)
SELECT w.rater, w.completion_id, w.good, e.good AS expert
FROM words w LEFT JOIN experts e ON e.target = w.completion_id {{of}} ORDER BY w.at, w.completion_id
"""
_OF = "WHERE w.rater IN (SELECT rater FROM words WHERE completion_id IN (SELECT unnest($2)))"
_CONTENTS = f"""
SELECT completion_id, {_CONTENT} AS content FROM completions
WHERE completion_id IN (SELECT unnest($1))
"""
_FRESH = """
SELECT DISTINCT completion_id AS id FROM lake.table_insertions('scores', {after:d}, {until:d})
WHERE task = $1 AND value IS NOT NULL
"""
_WORTH = f"""
WITH graders AS (
    SELECT unnest($2::VARCHAR[]) AS evaluator, unnest($3::VARCHAR[]) AS evaluator_version,
        unnest($4::DOUBLE[]) AS low, unnest($5::DOUBLE[]) AS high, unnest($6::BOOLEAN[]) AS judge
),
verdicts AS (
    SELECT completion_id, evaluator, any_value(judge) AS judge,
        (arg_max_null(value, created_at) - any_value(low)) / any_value(high - low) AS value
    FROM scores JOIN graders USING (evaluator, evaluator_version)
    WHERE task = $1 {{among}} GROUP BY completion_id, evaluator
),
worth AS (
    SELECT completion_id, max(value) - min(value) AS spread,
        coalesce(max(1 - abs(2 * value - 1)) FILTER (judge), 0) AS doubt,
        list({{{{evaluator: evaluator, value: value}}}} ORDER BY evaluator) AS verdicts
    FROM verdicts WHERE value IS NOT NULL GROUP BY completion_id
    HAVING greatest(spread, doubt) >= {MIN_WORTH}
)
SELECT w.*, {_CONTENT} AS content
FROM worth w JOIN completions c USING (completion_id)
WHERE {_ANSWERED} {{among_c}} AND NOT EXISTS (SELECT 1 FROM feedback f
    WHERE f.target = c.completion_id AND f.author = 'expert' AND f.task = $1 {{among_f}})
ORDER BY greatest(spread, doubt) DESC, completion_id LIMIT $7
"""


class Filled(NamedTuple):
    """How many answers came into the queue."""

    random: int
    chosen: int
    """By the audit, or as worth a label."""


class Place(NamedTuple):
    """Whose queue is filled."""

    service: Service
    task: Task
    queue: Queue


def fill(service: Service, task: Task, lake: Lake) -> Filled:
    """Bring what is new in the lake before the labellers of `task`."""
    with closing(open_state(service)) as state:
        queue = Queue(state, task)
        until, after, place = lake.snapshot_id(), _mark(state, task), Place(service, task, queue)
        try:
            found = _look(place, lake, after, until)
        except LakeError:
            if after is None:
                raise
            found = _look(place, lake, None, until)
        filled = Filled(*(queue.offer(each) for each in found))
        _remember(state, task, until)
    return filled


def chance(salt: str, completion_id: str) -> float:
    """From 0 to 1, by nothing but the id: what is below the random share is in it."""
    digest = hashlib.sha256((salt + completion_id).encode()).hexdigest()
    return int(digest[:13], 16) / 2**52


def label_salt(service: Service) -> str:
    """Of what chance decides about labels."""
    return label_salt_of(heldout_salt(service))


def label_salt_of(heldout: str) -> str:
    """Made of the held-out hash's, and apart from it."""
    return hashlib.sha256(f"labels|{heldout}".encode()).hexdigest()


def scale(grader: Base[Any]) -> tuple[float, float]:
    """The lowest and the highest value of a grader."""
    return grader.spec.range if isinstance(grader.spec, ScoreModel) else (0.0, 1.0)


def _look(
    place: Place, lake: Lake, after: int | None, until: int
) -> tuple[list[Candidate], list[Candidate]]:
    """Candidates by chance and by worth among what came after a snapshot; None: among all."""
    if after is not None and after >= until:
        return [], []
    audit = _by_audit(place, lake, after, until)
    return _by_chance(place, lake, after, until), [
        *audit,
        *_by_worth(place.task, lake, after, until),
    ]


def _by_chance(place: Place, lake: Lake, after: int | None, until: int) -> list[Candidate]:
    service, task = place.service, place.task
    rows = "completions"
    if after is not None:
        rows = f"lake.table_insertions('completions', {after + 1:d}, {until:d})"
    share = task.labels.random_percent / 100
    params = [task.task, label_salt(service), share, task.labels.max_open]
    return [
        Candidate(row["completion_id"], row["content"], "random", "by chance", row["place"], share)
        for row in lake.read(_RANDOM.format(completions=rows), params).to_pylist()
    ]


def _by_audit(place: Place, lake: Lake, after: int | None, until: int) -> list[Candidate]:
    """Of raters of whose answers somebody spoke meanwhile, or was asked and could not tell."""
    service, task = place.service, place.task
    if task.labels.audit_every == 0:
        return []
    params: list[Any] = [task.task]
    passed = place.queue.passed()
    if after is not None:
        query = _SPOKEN.format(after=after + 1, until=until)
        spoken = lake.read(query, [task.task])["id"].to_pylist()
        if not spoken:
            return []
        params.append([*spoken, *passed])
    words = lake.read(_WORDS.format(of="" if after is None else _OF), params).to_pylist()
    drawn = draw(
        (Word(**row) for row in words),
        every=task.labels.audit_every,
        salt=label_salt(service),
        passed=passed,
    )
    found = lake.read(_CONTENTS, [[each.completion_id for each in drawn]]).to_pylist()
    contents = {row["completion_id"]: row["content"] for row in found}
    every = f"one in {task.labels.audit_every} of what a rater said"
    return [
        Candidate(
            each.completion_id, contents[each.completion_id], "audit",
            "an expert contradicted this rater" if each.again else every, each.place,
        )
        for each in drawn
        if each.completion_id in contents
    ]  # fmt: skip


def _by_worth(task: Task, lake: Lake, after: int | None, until: int) -> list[Candidate]:
    # A formula over graders would disagree with its own parts.
    graders = [each for each in build_all(task) if not isinstance(each.spec, Multi)]
    params: list[Any] = [
        task.task,
        [each.name for each in graders],
        [each.version for each in graders],
        [scale(each)[0] for each in graders],
        [scale(each)[1] for each in graders],
        [isinstance(each.spec, Judging) for each in graders],
        task.labels.max_open,
    ]
    among = {"among": "", "among_c": "", "among_f": ""}
    if after is not None:
        query = _FRESH.format(after=after + 1, until=until)
        ids = lake.read(query, [task.task])["id"].to_pylist()
        if not ids:
            return []
        # The bounds let the lake skip files: ids begin with their time.
        inside = "AND {id} BETWEEN $8 AND $9 AND {id} IN (SELECT unnest($10::VARCHAR[]))"
        among = {
            "among": inside.format(id="completion_id"),
            "among_c": inside.format(id="c.completion_id"),
            "among_f": inside.format(id="f.target"),
        }
        params += [min(ids), max(ids), ids]
    return [_worth(row) for row in lake.read(_WORTH.format(**among), params).to_pylist()]


def _worth(row: Mapping[str, Any]) -> Candidate:
    source: Source = "disagreement" if row["spread"] >= row["doubt"] else "uncertainty"
    why = ", ".join(f"{each['evaluator']} {each['value']:.2f}" for each in row["verdicts"])
    place = 1 - min(1.0, max(row["spread"], row["doubt"]))
    return Candidate(row["completion_id"], row["content"], source, why, place)


def _mark(state: State, task: Task) -> int | None:
    found = state.get(MARK, task.task)
    return None if found is None else int(found[0]["snapshot"])


def _remember(state: State, task: Task, snapshot: int) -> None:
    """Of two fills at once the second looks at some of it again: an item is offered once."""
    found = state.get(MARK, task.task)
    with suppress(StateConflict):
        state.put(MARK, task.task, {"snapshot": snapshot}, found[1] if found else 0)

"""What experts say of the units of a release that chance puts before them.

- Drawn is whose first answer's id hashes below `label_share` under the installation's secret: the
  very hash that fills the label queue (`evaluators.fill`). Neither the arm nor the answer has a
  part in it. Thumbs of users are no such sample.
- The queue asks in the order of that hash. So a share that people have labelled to the end lately
  they will label again, and it is fixed before the start; whatever is not labelled in time is
  *missing*, and counts against what is asked (`corrected.py`).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from evaluators.fill import chance
from everlearn.graders import ScoreModel
from everlearn.lake.schema import feedback_state
from everlearn.lake.store import Lake
from everlearn.opinion import opinion, voices
from everlearn.task import Task
from serving.release.corrected import Asked, Correction, Labels
from serving.release.observations import Counted, Metric, frozen
from serving.release.states import Release

MIN_DRAWN = 20
"""Answers put before people by chance lately, from which on a share is known."""
MIN_LABELLED = 0.95
"""Of them, labelled in time: what is missing counts against the version."""
RECENT_DAYS = 7
DAY_SECONDS = 86_400.0

_AMONG = "target BETWEEN $1 AND $2 AND target IN (SELECT unnest($3::VARCHAR[]))"
"""The bounds let the lake skip files: ids begin with their time."""
_SAID = f"""
SELECT s.target, s.kind, s.name, s.value_bool, s.value_number, s.value_text, s.author, s.author_id,
    s.key_id, s.weight, epoch(s.received_at) AS at, c.response_text
FROM ({feedback_state(f"(SELECT * FROM feedback WHERE author = 'expert' AND {_AMONG})")}) s
    JOIN completions c ON c.completion_id = s.target
WHERE s.state = 'joined' AND NOT s.ambiguous
    AND {_AMONG.replace("target", "c.completion_id")}
ORDER BY s.given_at, s.feedback_id
"""
_LATELY = """
WITH drawn AS (
    SELECT completion_id, received_at,
        ('0x' || substr(sha256($2 || completion_id), 1, 13))::BIGINT / 2.0 ** 52 AS place
    FROM completions
    WHERE task = $1 AND status = 'ok' AND response_text IS NOT NULL
        AND received_at >= to_timestamp($3) AND received_at < to_timestamp($4)
), judged AS (
    SELECT completion_id, arg_max_null(value, created_at) AS value
    FROM scores WHERE task = $1 AND evaluator = $5 GROUP BY completion_id
)
SELECT completion_id, epoch(received_at) AS at, place, judged.value
FROM drawn LEFT JOIN judged USING (completion_id) WHERE place < $6
ORDER BY place
"""


class Share(NamedTuple):
    """Of the answers lately, what people label to the end; None: nothing is."""

    share: float | None
    drawn: int
    labelled: int
    worth: float = 1.0
    """Labels without the judge that one with it is worth."""

    def refusal(self, task: Task) -> str:
        """Why they cannot correct anything."""
        wait = task.release.closing_seconds
        head = (
            f"task {task.task}: release.labels: of {self.drawn} answers that chance put before "
            f"people in the last {RECENT_DAYS} days {self.labelled} were labelled within "
            f"{wait:g} s (release.labels.wait_seconds)"
        )
        return (
            f"{head}: of no share of at least {MIN_DRAWN} answers {MIN_LABELLED:.0%}, and an "
            "answer that is not labelled counts against the version. Thumbs are no sample by "
            "chance, and cannot stand in. "
            f"Fill the queue (`everlearn labels fill {task.task}`, on a schedule) "
            f"and label its random share to the end (`everlearn labels next {task.task}`), with a "
            f"smaller labels.random_percent (now {task.labels.random_percent:g}) or a longer "
            "release.labels.wait_seconds; or leave release.labels out, and the judge's word decides"
        )


def starting(release: Release) -> str:
    """What corrects the primary metric of a release that begins, for people."""
    judge = release.parsed_rules.primary
    assert release.label_share is not None
    return (
        f"people label {release.label_share:.2%} of the answers to the end, which chance puts "
        f"before them; they decide, and beside {judge} each of them tells as much as "
        f"{release.label_worth:.2f} alone"
    )


def labels_of(lake: Lake, release: Release) -> Labels | None:
    """What people's labels have told so far; None: nobody is to label anything."""
    rules = release.parsed_rules
    if rules.labels is None:
        return None
    past = Correction()
    for row in frozen(lake, release.release_id):
        seen = row.observation if row.metric == rules.primary else None
        if seen is not None and seen.asked is not None:
            past.read(seen.value, seen.asked)
    return past.labels()[0]


def labelled(
    lake: Lake,
    task: Task,
    salt: str,
    *,
    due: Sequence[Mapping[str, Any]],
    rows: Sequence[Counted],
    wanted: Metric,
) -> list[Counted]:
    """`rows`, counted from the units that are `due`, with what people said of those drawn. An
    answer that nobody could be shown says nothing."""
    share = wanted.label_share
    assert share is not None
    drawn = {unit["first"] for unit in due if unit["first"] and chance(salt, unit["first"]) < share}
    told = _told(lake, task, sorted(drawn))
    found = []
    for unit, row in zip(due, rows, strict=True):
        first = unit["first"]
        if first is None:
            found.append(row._replace(value=None))
            continue
        by = unit["opened"] + wanted.close_seconds
        label = told.said(first, by) if first in drawn else None
        found.append(row._replace(label_share=share, drawn=first in drawn, label=label))
    return found


def known_share(lake: Lake, task: Task, salt: str, before: float) -> Share:
    """By the answers whose labels had time to come until `before`."""
    wait, since = task.release.closing_seconds, before - RECENT_DAYS * DAY_SECONDS
    most = task.labels.random_percent / 100
    asked = [task.task, salt, since - wait, before - wait, task.release.primary, most]
    answers = lake.read(_LATELY, asked).to_pylist()
    told = _told(lake, task, sorted(row["completion_id"] for row in answers))
    labels = [told.said(row["completion_id"], row["at"] + wait) for row in answers]
    places = [row["place"] for row in answers]
    share = full_share(places, [label is not None for label in labels], most)
    total = sum(label is not None for label in labels)
    if share is None:
        return Share(None, len(answers), total)
    grader = task.grader(task.release.primary)
    low, high = grader.range if isinstance(grader, ScoreModel) else (0.0, 1.0)
    past = Correction()
    for row, label in zip(answers, labels, strict=True):
        if row["place"] < share and label is not None:
            value = math.nan if row["value"] is None else (row["value"] - low) / (high - low)
            past.read(value, Asked(share, True, label))
    seen = past.labels()[0]
    return Share(share, len(answers), total, seen.worth / seen.labelled)


def full_share(places: Sequence[float], labelled: Sequence[bool], most: float) -> float | None:
    """The largest share up to `most` of which enough was labelled; `places` rise."""
    found, done = None, 0
    for count, was in enumerate(labelled, 1):
        done += was
        if count >= MIN_DRAWN and done >= MIN_LABELLED * count:
            found = places[count] if count < len(places) else most
    return found


class _Told(NamedTuple):
    """What experts said, by answer."""

    rows: Mapping[str, Sequence[Mapping[str, Any]]]
    task: Task

    def said(self, answer: str, by: float) -> float | None:
        """Their verdict at that time, 0 to 1."""
        rows = [row for row in self.rows.get(answer, ()) if row["at"] <= by]
        if not rows:
            return None
        names = {row["name"] for row in rows}
        found = opinion(voices(rows, rows[0]["response_text"], names, self.task.scales)[0])
        return None if found is None else found.value


def _told(lake: Lake, task: Task, answers: Sequence[str]) -> _Told:
    """Of these answers, whose ids rise."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    if answers:
        for row in lake.read(_SAID, [answers[0], answers[-1], list(answers)]).to_pylist():
            found.setdefault(row["target"], []).append(row)
    return _Told(found, task)

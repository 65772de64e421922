"""Whose words a unit's value rests on, and how much of a step one user may decide.

- Of the units that a metric of people counts in a step, one user's words stand behind
  `trust.max_share_per_rater` of either arm's at most, one unit at least, whenever one looks. Beyond
  it he is not heard: the unit is worth what others said of its answers, and says nothing where
  nobody else did (always, where a formula mixes feedback with other grades).
- Whether he is heard depends on what was counted before, never on the arm of the unit at hand: so
  what is left out leaves both arms alike, and the bets on what is heard hold.
- A user is the name that came with his word, which is his key's where that may name nobody else. A
  word without a name is that of who asked: only who may speak for users leaves it out. So a user
  has one share, whether he, his conversations or his requests are the units.
- An expert outranks users: where one has spoken, no user decides. Judges and code are not users.
- All of it is told from the frozen rows, so that a controller that was killed goes on.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any

from everlearn.coverage import feedback_names
from everlearn.graders import FeedbackGrader
from everlearn.lake.schema import feedback_state
from everlearn.lake.store import Lake
from everlearn.opinion import Scales, opinion, voices
from everlearn.task import Task
from serving.release.observations import Counted

Row = Mapping[str, Any]
Told = Mapping[str, Sequence[Row]]
"""What counts of the feedback on each answer, oldest first."""
Step = tuple[str, int]
"""Metric and stage."""

_AMONG = "{id} BETWEEN $1 AND $2 AND {id} IN (SELECT unnest($3::VARCHAR[]))"
"""The bounds let the lake skip files: ids begin with their time."""
_SAID = f"""
    SELECT s.target, s.kind, s.name, s.value_bool, s.value_number, s.value_text, s.author,
        s.author_id, s.key_id, s.weight, c.response_text
    FROM ({feedback_state(f"(SELECT * FROM feedback WHERE {_AMONG.format(id='target')})")}) s
        JOIN completions c ON c.completion_id = s.target
    WHERE s.state = 'joined' AND NOT s.ambiguous AND {_AMONG.format(id="c.completion_id")}
    ORDER BY s.given_at, s.feedback_id
"""


def said(lake: Lake, answers: Sequence[str]) -> Told:
    """Of these answers."""
    if not answers:
        return {}
    found: dict[str, list[Row]] = {}
    among = [min(answers), max(answers), sorted(set(answers))]
    for row in lake.read(_SAID, among).to_pylist():
        found.setdefault(row["target"], []).append(row)
    return found


class Raters:
    """Of one release: how many units each step has, and behind how many of them who stands."""

    def __init__(self, rows: Iterable[Counted] = ()) -> None:
        self._units: Counter[tuple[Step, bool]] = Counter()
        self._behind: Counter[tuple[Step, str]] = Counter()
        self.fold(rows)

    def fold(self, rows: Iterable[Counted]) -> None:
        """Count frozen rows."""
        for row in rows:
            if row.raters is not None and row.observation is not None:
                step = (row.metric, row.stage)
                self._units[step, row.treated] += 1
                self._behind.update((step, user) for user in json.loads(row.raters))

    def limited(
        self, lake: Lake, task: Task, *, due: Sequence[Row], rows: Sequence[Counted]
    ) -> list[Counted]:
        """`rows`, counted for one metric from the units that are `due`, as they will be frozen:
        each with the value of those who are heard."""
        metric = rows[0].metric if rows else None
        grader = next((each for each in task.every_grader if each.name == metric), None)
        names = feedback_names(grader, task.graders) if grader is not None else ()
        if not names:
            return list(rows)
        scales = dict(task.scales)
        if isinstance(grader, FeedbackGrader) and grader.scale is not None:
            scales[grader.feedback] = grader.scale
        answers = [
            answer for unit in due if unit["value"] is not None for answer in unit["answers"]
        ]
        told = said(lake, answers)
        words = [Words(unit, told, names, scales) for unit in due]
        share = task.trust.max_share_per_rater
        return self.heard(rows, words, share=share, apart=isinstance(grader, FeedbackGrader))

    def heard(
        self, rows: Sequence[Counted], words: Sequence["Words"], *, share: float, apart: bool = True
    ) -> list[Counted]:
        """The same, of what was said of each. `apart`: the value of some without the others is
        known."""
        now = Raters()
        now._units, now._behind = self._units.copy(), self._behind.copy()
        found = []
        for row, about in zip(rows, words, strict=True):
            if row.observation is None:
                found.append(row)
                continue
            left_out = now._left_out((row.metric, row.stage), about.users, share)
            value = row.value
            if left_out:
                value = about.value(left_out) if apart else None
            users = [user for user in about.users if user not in left_out]
            told = json.dumps(users if value is not None else [])
            found.append(row._replace(value=value, raters=told, unheard=len(left_out)))
            now.fold(found[-1:])
        return found

    def _left_out(self, step: Step, users: Collection[str], share: float) -> set[str]:
        """Those who stand behind as many units as they may."""
        least = min(self._units[step, False], self._units[step, True])
        most = max(1, int(share * least))
        return {user for user in users if self._behind[step, user] >= most}


class Words:
    """What was said of the answers of one unit."""

    def __init__(self, unit: Row, told: Told, names: Collection[str], scales: Scales) -> None:
        self._unit, self._names, self._scales = unit["person"], names, scales
        self._answers = [told[answer] for answer in unit["answers"] or () if answer in told]

    @property
    def users(self) -> list[str]:
        """By digest, each whose word is part of the value."""
        found: dict[str, None] = {}
        for rows in self._answers:
            counted = [row for row in rows if self._value([row]) is not None]
            if not any(row["author"] == "expert" for row in counted):
                found |= {user: None for row in counted if (user := self._user(row)) is not None}
        return list(found)

    def value(self, without: Collection[str]) -> float | None:
        """As the `feedback` grader has it, of the others' words."""
        told = [self._value([row for row in rows if self._user(row) not in without])
                for rows in self._answers]  # fmt: skip
        values = [value for value in told if value is not None]
        return sum(values) / len(values) if values else None

    def _value(self, rows: Sequence[Row]) -> float | None:
        text = rows[0]["response_text"] if rows else None
        heard, _ = voices(rows, text or "", self._names, self._scales)
        found = opinion(heard)
        return None if found is None else found.value

    def _user(self, row: Row) -> str | None:
        if row["author"] != "end_user":
            return None
        name = row["author_id"] or self._unit
        return sha256(name.encode(errors="surrogatepass")).hexdigest()[:16]

"""The pairs of a release that answers in the shadow: read from the lake, judged, frozen there.

- A pair is one request as its user was answered and as the candidate was asked beside; the first
  of a user in an epoch. It is looked at once the candidate's upstream would have given up, so that
  a slow answer is not replaced by a quicker one.
- What is frozen in `release_units` counts for good: after kill -9 it goes on from there. A pair
  that the judge could not be asked about is asked again after a pause, `TRIES` times.
- The judge must hold its vote (`votes.py`) for as long as it is asked.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from evaluators.bulk import grade_all, in_background
from evaluators.graders import build
from evaluators.judge.budget import SPENT
from evaluators.pending import readable
from evaluators.template import Template, Unknown
from evaluators.types import Item, Sample
from everlearn.config import Service
from everlearn.errors import EverlearnError
from everlearn.graders import PairwiseModel
from everlearn.lake.store import Lake
from everlearn.state import StateConflict
from everlearn.task import Task
from serving.release.accounts import PAIRS, Accounts
from serving.release.observations import Counted, freeze, oldest_since, read
from serving.release.pairs import PROPENSITY, Problem, value_of
from serving.release.states import Release
from serving.release.votes import Votes

AT_ONCE = 32
"""Pairs that are judged in one round."""
TRIES = 5
"""Of a pair; what the judge cannot judge then says nothing. Without money nothing is tried."""
PAUSE_SECONDS = 15.0
"""After the judge failed."""
ROUNDING_SECONDS = 0.001

# As the gateway tells them apart; a clock of its own may be behind the start.
_EPOCH = """CASE WHEN $length > 0
    THEN greatest(0, floor((epoch(received_at) - $since) / $length))::BIGINT ELSE 0 END AS epoch"""
# The copy bears its request's time and unit, and an identity of its own. What an upstream had no
# room for (429) says nothing of the version.
_COPIED = f"""
WITH asked AS (
    SELECT completion_id, gateway_id, unit, coalesce(draw, unit) AS drawn, received_at, status, arm,
        fallback_from, http_status, error, {_EPOCH}
    FROM completions
    WHERE task = $task AND release = $release AND stage IS NULL AND unit IS NOT NULL
        AND received_at >= to_timestamp($begin) AND received_at <= to_timestamp($closed)
)
SELECT shown.completion_id AS shown, shadow.completion_id AS shadow, shown.unit, shown.epoch,
    shown.drawn, epoch(shown.received_at) AS at,
    CASE WHEN shown.status IN ('client_abort', 'rejected') OR shown.http_status = 429 THEN NULL
        ELSE shown.status = 'ok' AND shown.fallback_from IS NULL END AS shown_ok,
    CASE WHEN shadow.http_status = 429 THEN NULL ELSE shadow.error IS NULL END AS shadow_ok
FROM asked AS shown JOIN asked AS shadow
    ON shadow.unit = shown.unit AND shadow.received_at = shown.received_at
    AND shadow.gateway_id IS NOT DISTINCT FROM shown.gateway_id
WHERE shown.status <> 'shadow' AND shown.arm = 'champion' AND shadow.status = 'shadow'
ORDER BY shown.received_at, shown.completion_id, shadow.completion_id
"""
_COUNTED = f"""
SELECT DISTINCT unit, {_EPOCH}
FROM completions JOIN (
    SELECT unit AS drawn FROM release_units WHERE release_id = $release AND metric = $metric
) ON coalesce(draw, unit) = drawn
WHERE task = $task AND release = $release AND stage IS NULL
"""
_TEXTS = """
SELECT completion_id, messages, tools, answer, response_text, finish_reason, metadata, version, arm
FROM completions WHERE task = $task AND completion_id IN (SELECT unnest($ids::VARCHAR[]))
"""
_NOT_ASKED: Mapping[str, Any] = {"evaluators": (), "feedback": None, "feedback_digest": None}
"""Nobody has seen the candidate's answer: what was said of the other is no part of the question."""


class Said(NamedTuple):
    """Of one pair: its value, or why the judge gave none."""

    value: float | None
    error: str | None = None


class Pairing:
    """Of one task; what it remembers can be read again from the lake."""

    def __init__(self, service: Service, lake: Lake, votes: Votes) -> None:
        self._service, self._lake, self._votes = service, lake, votes
        self.forget()

    def forget(self) -> None:
        """Begin again from the frozen rows: another release, or somebody else has counted."""
        self._release = ""
        self._counted: set[tuple[str, int]] = set()
        """Users who have made their pair, by epoch."""
        self._begin = self._after = 0.0
        """Pairs asked for before this are done; the judge is not asked before that."""
        self._snapshot = 0
        self._failed: str | None = None
        self._tries: Counter[str] = Counter()

    def count(self, task: Task, release: Release, accounts: Accounts, now: float) -> Problem | None:
        """Judge what is due and count it; why some pairs wait, if so. StateConflict if somebody
        else counts too."""
        rules = release.parsed_rules
        lost = self._votes.lost(task, release.release_id, rules, now)
        problem = None if lost is None else Problem(lost, trusted=False)
        if lost is None:
            try:
                problem = self._judged(task, release, accounts, now)
            except StateConflict:
                raise
            except EverlearnError as error:
                problem = Problem(f"{PAIRS}: {error}")
        return problem

    def _judged(
        self, task: Task, release: Release, accounts: Accounts, now: float
    ) -> Problem | None:
        """Freeze what could be judged; why some pairs wait, if so."""
        if self._release != release.release_id:
            self._remember(release, task.task)
        if self._failed is not None and now < self._after:
            return Problem(self._failed)
        self._failed = None
        closed, snapshot = now - self._patience(task, release), self._lake.snapshot_id()
        waiting = self._waiting(task.task, release, closed, snapshot)
        asked = waiting[:AT_ONCE]
        said = self._values(task, release, asked)
        frozen: list[Counted] = []
        done: set[tuple[str, int]] = set()
        left = waiting[AT_ONCE:]
        for row, (value, error) in zip(asked, said, strict=True):
            if error is not None and self._again(row, error, now):
                left.append(row)
                continue
            place = accounts.rows + len(frozen)
            frozen.append(Counted(PAIRS, row["drawn"], 0, place, True, PROPENSITY, value, 0))
            done.add((row["unit"], row["epoch"]))
        freeze(self._lake, release.release_id, frozen, now)
        accounts.fold(frozen)
        self._counted |= done
        self._begin, self._snapshot = min([closed, *(row["at"] for row in left)]), snapshot
        return None if self._failed is None else Problem(self._failed)

    def _remember(self, release: Release, task: str) -> None:
        """Whose pairs are frozen already."""
        self.forget()
        params = {**_epochs(release), "task": task, "metric": PAIRS}
        rows = read(self._lake, _COUNTED, params)
        self._counted = {(row["unit"], row["epoch"]) for row in rows}
        self._release, self._begin = release.release_id, release.created_at

    def _patience(self, task: Task, release: Release) -> float:
        """Seconds by which a copy is answered or given up."""
        upstream = self._service.upstreams[release.candidate.upstream or task.upstream]
        return max(release.answer_seconds, upstream.answer_timeout_seconds)

    def _waiting(
        self, task: str, release: Release, closed: float, snapshot: int
    ) -> list[dict[str, Any]]:
        """The first pair of each user in an epoch that is not counted yet, the oldest first."""
        late = math.inf
        if self._snapshot:
            late = oldest_since(self._lake, release.release_id, self._snapshot, snapshot)
        begin = max(release.created_at, min(self._begin, late)) - ROUNDING_SECONDS
        params = {**_epochs(release), "task": task, "begin": begin, "closed": closed}
        found: dict[tuple[str, int], dict[str, Any]] = {}
        for row in read(self._lake, _COPIED, params):
            key = (row["unit"], row["epoch"])
            if key not in self._counted:
                found.setdefault(key, row)
        return list(found.values())

    def _again(self, row: Mapping[str, Any], error: str, now: float) -> bool:
        """Whether the judge is asked about the pair once more, after a pause."""
        self._tries[row["shown"]] += SPENT not in error
        if self._tries[row["shown"]] >= TRIES:
            return False
        self._failed, self._after = f"{PAIRS}: {error}", now + PAUSE_SECONDS
        return True

    def _values(
        self, task: Task, release: Release, rows: Sequence[Mapping[str, Any]]
    ) -> list[Said]:
        """Of each pair, in their order."""
        both = [row for row in rows if row["shown_ok"] and row["shadow_ok"]]
        judged = dict(
            zip((row["shown"] for row in both), self._judge(task, release, both), strict=True)
        )
        return [
            judged.get(row["shown"]) or Said(value_of(row["shown_ok"], row["shadow_ok"]))
            for row in rows
        ]

    def _judge(self, task: Task, release: Release, rows: Sequence[Mapping[str, Any]]) -> list[Said]:
        """By the task's judge, which sees what was shown in the place of its `other`."""
        if not rows:
            return []
        rules = release.parsed_rules.shadow_pairs
        assert rules is not None
        spec = task.grader(rules.judge)
        if not isinstance(spec, PairwiseModel):
            raise EverlearnError(f"grader {rules.judge} is no pairwise_model any more")
        beside = spec.model_copy(update={"other": "{{item.shown}}"})
        texts = self._texts(task.task, rows)
        grader = build(beside, task, self._service)
        try:
            asked = [question(spec, texts[row["shown"]], texts[row["shadow"]]) for row in rows]
            found = [scores[0] for scores in grade_all([grader], asked)]
        finally:
            in_background(grader.aclose())
        return [Said(score.value, score.error) for score in found]

    def _texts(self, task: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        ids = [row[side] for row in rows for side in ("shown", "shadow")]
        found = read(self._lake, _TEXTS, {"task": task, "ids": ids})
        return {row["completion_id"]: row for row in found}


def question(
    spec: PairwiseModel, shown: Mapping[str, Any], shadow: Mapping[str, Any]
) -> tuple[Sample, Item]:
    """The candidate's answer, and beside it the one that was shown, both by the judge's template;
    what the template names and nobody knows leaves the pair unscored, and so do two prompts."""
    seen = readable({**shown, **_NOT_ASKED}, {})
    answered = readable({**shadow, **_NOT_ASKED}, {})
    other: str | None = None
    if shown["messages"] == shadow["messages"]:
        with suppress(Unknown):
            other = Template(spec.answer, "answer").render(seen.sample, seen.item)
    return answered.sample, {**answered.item, "shown": other}


def _epochs(release: Release) -> dict[str, Any]:
    """By which requests are told apart, as the gateway does."""
    return {
        "release": release.release_id,
        "length": release.parsed_rules.epoch_seconds,
        "since": release.created_at,
    }

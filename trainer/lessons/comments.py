"""What people wrote about a task's answers, and which of it is heard: reading and pure functions.

- An expert is heard; a user where the task says so, when his trust is high enough.
- Of one rater the newest `max_per_rater` texts are, each once: ten thousand comments of one rater
  weigh no more than those.
- A comment on an answer whose client said `store: false`, or whose words were forced, teaches
  nothing.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from evaluators.trust import Standing
from everlearn.lake.store import Lake
from everlearn.people import Comments
from trainer.rows import fold

MAX_READ_PER_RATER = 1000
"""Newest comments of one rater that are looked at; more are counted."""

_COMMENTS = f"""
    SELECT f.feedback_id, f.completion_id, f.author, f.given_at,
        coalesce(f.author_id, '/' || f.key_id, c.unit, c.completion_id) AS rater,
        coalesce(CASE WHEN f.kind = 'comment' THEN f.value_text END, f.comment) AS text,
        coalesce(c.trainable, true) AND c.forced IS NULL
            AND c.status IN ('ok', 'imported') AS usable
    FROM feedback_joined f JOIN completions c ON c.completion_id = f.completion_id
    WHERE f.task = ? AND NOT f.ambiguous AND f.author IN ('expert', 'end_user')
        AND trim(coalesce(CASE WHEN f.kind = 'comment' THEN f.value_text END, f.comment, '')) <> ''
    QUALIFY row_number() OVER (PARTITION BY f.author, rater ORDER BY f.given_at DESC,
        f.feedback_id DESC) <= {MAX_READ_PER_RATER}
    ORDER BY f.given_at DESC, f.feedback_id DESC
"""


@dataclass(frozen=True, kw_only=True)
class Comment:
    """One text about one answer."""

    feedback_id: str
    completion_id: str
    text: str
    author: str
    """expert or end_user."""
    rater: str
    given_at: datetime
    usable: bool = True
    """The answer may be trained on."""

    @property
    def expert(self) -> bool:
        return self.author == "expert"


def read_comments(lake: Lake, task: str) -> list[Comment]:
    """Those that count, the newest first."""
    return [Comment(**record) for record in lake.read(_COMMENTS, [task]).to_pylist()]


def refusals(
    comments: Sequence[Comment], rules: Comments, standings: Mapping[str, Standing]
) -> dict[str, str]:
    """Why a comment is not heard, by feedback_id; `comments` are the newest first."""
    heard: Counter[tuple[str, str]] = Counter()
    said: set[tuple[str, str, str]] = set()
    refused = {}
    for comment in comments:
        rater, text = (comment.author, comment.rater), fold(comment.text).casefold()
        why = _authority(comment, rules, standings)
        if why is None and (*rater, text) in said:
            why = "said before by the same rater"
        if why is None and heard[rater] >= rules.max_per_rater:
            why = f"comments.max_per_rater {rules.max_per_rater} of {comment.rater} are heard"
        if why is None:
            heard[rater] += 1
            said.add((*rater, text))
        else:
            refused[comment.feedback_id] = why
    return refused


def _authority(comment: Comment, rules: Comments, standings: Mapping[str, Standing]) -> str | None:
    if not comment.usable:
        return "its answer may not be trained on (store: false, forced, or not answered)"
    if comment.expert:
        return None
    if rules.authors == "experts":
        return "comments.authors experts: a user's comment teaches nothing"
    standing = standings.get(comment.rater, Standing(0.5))
    if standing.quarantined:
        return f"quarantined: {standing.quarantined}"
    if standing.weight < rules.min_weight:
        return f"weight {standing.weight:.2f} < comments.min_weight {rules.min_weight:g}"
    return None


@dataclass(frozen=True, kw_only=True)
class Known:
    """What the lake says became of a comment."""

    feedback_id: str
    sorter: str | None = None
    sort: str | None = None
    rule: str | None = None
    reason: str | None = None
    error: str | None = None
    state: str = "waiting"
    why: str = "not sorted yet"
    lift: Mapping[str, Any] | None = None
    tries: int = 0
    """How often this sorter failed."""


def known(lake: Lake, task: str) -> dict[str, Known]:
    """The latest word on each comment."""
    from trainer.rows import parsed

    sql = """SELECT feedback_id, sorter, sort, rule, reason, error, state, why, lift, tries FROM (
        SELECT *, count_if(error IS NOT NULL) OVER (PARTITION BY feedback_id, sorter) AS tries,
            row_number() OVER (PARTITION BY feedback_id ORDER BY created_at DESC) AS recency
        FROM comments WHERE task = ?) WHERE recency = 1"""
    records = lake.read(sql, [task]).to_pylist()
    return {
        record["feedback_id"]: Known(**{**record, "lift": parsed(record["lift"])})
        for record in records
    }

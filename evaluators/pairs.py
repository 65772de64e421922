"""Two answers to one prompt, side by side: which is better, A or B. Nobody knows whose is whose.

- Which answer is A is drawn when the pair comes in, and kept: whoever looks again sees the same.
- Answers of different versions come first; the same text twice is no pair.
- A pair is leased like any item of the label queue, and its verdict is an expert's preference.
"""

import hashlib
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa

from evaluators.queue import Taken
from evaluators.references import asked
from evaluators.shown import Shown, shown
from everlearn.clock import Clock, SystemClock
from everlearn.errors import NotFound
from everlearn.lake.store import Lake
from everlearn.prompts import prompt_key
from everlearn.state import State
from everlearn.task import Task
from everlearn.tolerant import UNREADABLE

Verdict = Literal["A", "B", "tie", "skip"]
NAME = "pairwise"
"""Of the feedback."""
LOOKED_AT = 1000
"""Newest answers among which pairs are looked for."""

_metadata = sa.MetaData()
_pairs = sa.Table(
    "label_pairs",
    _metadata,
    sa.Column("task", sa.String(64), primary_key=True),
    sa.Column("pair", sa.String(64), primary_key=True),
    sa.Column("a", sa.String(256), nullable=False),
    sa.Column("b", sa.String(256), nullable=False),
    sa.Column("place", sa.Integer, nullable=False),
    sa.Column("holder", sa.String(256)),
    # Of a pair that was judged: when.
    sa.Column("leased_until", sa.Float, nullable=False),
    sa.Column("labeller", sa.String(256)),
    sa.Column("verdict", sa.String(16)),
    sa.Index("label_pairs_order", "task", "verdict", "place"),
)
_ADD = sa.text("""
    INSERT INTO label_pairs (task, pair, a, b, place, leased_until)
    VALUES (:task, :pair, :a, :b, :place, 0) ON CONFLICT DO NOTHING
""")
_ANSWERS = """
SELECT completion_id, messages, tools, response_text, version FROM completions
WHERE task = $1 AND status = 'ok' AND response_text IS NOT NULL
ORDER BY received_at DESC, completion_id LIMIT $2
"""
_c = _pairs.c


@dataclass(frozen=True)
class Pair:
    """Two answers, by the side on which they are shown."""

    pair: str
    a: str
    b: str


@dataclass(frozen=True)
class Side:
    """What is put before a labeller: a conversation and both answers, without whose they are."""

    pair: str
    a: Shown
    b: Shown


class Progress(NamedTuple):
    """How many pairs wait, were judged, and were judged by the one who asks."""

    open: int
    judged: int
    mine: int


class Pairs:
    """Of one task."""

    def __init__(self, state: State, task: Task, clock: Clock | None = None) -> None:
        state.add_tables(_metadata)
        self._state, self._task = state, task.task
        self._seconds = 60 * task.labels.lease_minutes
        self._clock = clock or SystemClock()

    def offer(self, found: Iterable[tuple[str, str, bool]]) -> int:
        """Draw the sides of new pairs (one answer, another, of different versions); how many."""
        added = 0
        with self._state.transaction() as connection:
            for one, other, differ in found:
                a, b = (one, other) if secrets.randbelow(2) else (other, one)
                row = {"task": self._task, "pair": pair_id(one, other), "place": int(not differ)}
                added += connection.execute(_ADD, {**row, "a": a, "b": b}).rowcount
        return added

    def next(self, who: str) -> Pair | None:
        """Lease the next pair, the one he holds first; None: nothing waits for him."""
        while True:
            now = self._clock.now()
            mine = (_c.holder == who) & (_c.leased_until > now)
            waits = self._open & (mine | (_c.leased_until <= now))
            query = sa.select(_pairs).where(waits)
            query = query.order_by(mine.desc(), _c.place, _c.pair).limit(1)
            with self._state.transaction() as connection:
                row = connection.execute(query).one_or_none()
            if row is None:
                return None
            if self._change(row.pair, who, {"holder": who, "leased_until": now + self._seconds}):
                return Pair(row.pair, row.a, row.b)

    def hold(self, pair: str, who: str) -> Pair:
        """Make sure that the pair is his to judge; Taken or NotFound with the reason."""
        until = self._clock.now() + self._seconds
        held = self._change(pair, who, {"holder": who, "leased_until": until})
        row = self._row(pair)
        if row is None:
            raise NotFound(f"task {self._task}: {pair} is not among the pairs")
        if not held:
            raise Taken(f"{pair} was judged meanwhile" if row.verdict else f"{pair} is taken")
        return Pair(row.pair, row.a, row.b)

    def find(self, pair: str) -> Pair | None:
        """The pair of that name."""
        row = self._row(pair)
        return None if row is None else Pair(row.pair, row.a, row.b)

    def judge(self, pair: str, who: str, verdict: Verdict) -> bool:
        """He said so; False: the pair is somebody else's, or was judged."""
        change = {"verdict": verdict, "labeller": who, "leased_until": self._clock.now()}
        return self._change(pair, who, change)

    def last(self, who: str) -> tuple[Pair, Verdict] | None:
        """What he said last: the one that can be undone."""
        mine = (_c.task == self._task) & (_c.labeller == who) & _c.verdict.is_not(None)
        query = sa.select(_pairs).where(mine).order_by(_c.leased_until.desc(), _c.pair).limit(1)
        with self._state.transaction() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else (Pair(row.pair, row.a, row.b), row.verdict)

    def undo(self, pair: str, who: str) -> bool:
        """Put before him again what he judged; False: it is not his."""
        mine = (_c.task == self._task) & (_c.pair == pair) & (_c.labeller == who)
        until = self._clock.now() + self._seconds
        change = {"verdict": None, "labeller": None, "holder": who, "leased_until": until}
        with self._state.transaction() as connection:
            return connection.execute(_pairs.update().where(mine).values(change)).rowcount == 1

    def drop(self, pair: str) -> None:
        """An answer of it is no longer there."""
        this = (_c.task == self._task) & (_c.pair == pair)
        with self._state.transaction() as connection:
            connection.execute(_pairs.delete().where(this))

    def progress(self, who: str) -> Progress:
        """Counts."""
        judged, mine = _c.verdict.is_not(None), _c.labeller == who
        query = sa.select(
            sa.func.count(),
            sa.func.coalesce(sa.func.sum(sa.case((judged, 1), else_=0)), 0),
            sa.func.coalesce(sa.func.sum(sa.case((judged & mine, 1), else_=0)), 0),
        ).where(_c.task == self._task)
        with self._state.transaction() as connection:
            pairs, done, his = connection.execute(query).one()
        return Progress(open=pairs - done, judged=done, mine=his)

    def _row(self, pair: str) -> Any:
        query = sa.select(_pairs).where((_c.task == self._task) & (_c.pair == pair))
        with self._state.transaction() as connection:
            return connection.execute(query).one_or_none()

    @property
    def _open(self) -> sa.ColumnElement[bool]:
        return (_c.task == self._task) & _c.verdict.is_(None)

    def _change(self, pair: str, who: str, change: Mapping[str, Any]) -> bool:
        mine = (_c.holder == who) | (_c.leased_until <= self._clock.now())
        update = _pairs.update().where(self._open & (_c.pair == pair) & mine).values(change)
        with self._state.transaction() as connection:
            return connection.execute(update).rowcount == 1


def pair_id(one: str, other: str) -> str:
    """The same in whichever order; tells neither id."""
    return hashlib.sha256("|".join(sorted((one, other))).encode()).hexdigest()[:24]


def find(lake: Lake, task: Task) -> list[tuple[str, str, bool]]:
    """Of each prompt among the newest answers one pair of different texts, versions apart first."""
    by_prompt: dict[str, list[Mapping[str, Any]]] = {}
    for row in lake.read(_ANSWERS, [task.task, LOOKED_AT]).to_pylist():
        try:
            by_prompt.setdefault(prompt_key(*asked(row)), []).append(row)
        except UNREADABLE:
            continue
    found = []
    for newest, *rest in by_prompt.values():
        others = [each for each in rest if each["response_text"] != newest["response_text"]]
        if others:
            other = min(others, key=lambda each: each["version"] == newest["version"])
            apart = other["version"] != newest["version"]
            found.append((newest["completion_id"], other["completion_id"], apart))
    return found


def ask(pairs: Pairs, lake: Lake, task: str, who: str) -> Side | None:
    """The next pair with its conversation; one whose answer is gone is passed over."""
    while (pair := pairs.next(who)) is not None:
        found = sides(lake, task, pair)
        if found is not None:
            return found
        pairs.drop(pair.pair)
    return None


def sides(lake: Lake, task: str, pair: Pair) -> Side | None:
    """A pair with its conversation; None where an answer of it is gone."""
    a, b = shown(lake, task, pair.a), shown(lake, task, pair.b)
    return None if a is None or b is None else Side(pair.pair, a, b)


def preference(
    pair: Pair, verdict: Verdict, *, author_id: str | None = None, comment: str = ""
) -> list[dict[str, Any]]:
    """The body of `POST /v1/feedback`: a preference with the side on which it stood; a tie is a
    label of its own, and prefers nothing."""
    shared: dict[str, Any] = {"name": NAME, "author": "expert"}
    shared |= {"author_id": author_id} if author_id else {}
    shared |= {"comment": comment} if comment else {}
    if verdict == "skip":
        return []
    if verdict == "tie":
        tags = {"asked": "pair", "other": pair.b}
        return [{**shared, "completion_id": pair.a, "kind": "label", "value": "tie", "tags": tags}]
    better, worse = (pair.a, pair.b) if verdict == "A" else (pair.b, pair.a)
    tags = {"asked": "pair", "side": verdict}
    return [{**shared, "preferred": better, "other": worse, "tags": tags}]


def retraction(
    pair: Pair, verdict: Verdict, *, author_id: str | None = None
) -> list[dict[str, Any]]:
    """The body of `POST /v1/feedback` that takes `preference` back; nothing after a skip."""
    if verdict == "skip":
        return []
    about = pair.b if verdict == "B" else pair.a
    event = {"completion_id": about, "name": NAME, "author": "expert", "kind": "retraction"}
    return [event | ({"author_id": author_id} if author_id else {})]

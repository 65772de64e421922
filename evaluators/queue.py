"""The label queue: answers that wait for a person, in the state store.

- Two labellers never hold the same item: an item is leased by compare-and-swap, and free again when
  the lease has run out. Whoever asks again gets what he holds.
- Of the random share `labels.overlap_percent` is labelled by two people, by chance again.
- Half of what people are asked is the random share, in the order of a hash: what of it is labelled
  at any moment is a sample by chance. The other half is what is most worth a label, and the audit
  of raters, in turn.
- The queue is bounded: what is least worth a label gives way, of the random share what would be
  asked last, and the probability of what stays is told.
- The queue never searches the lake: the next item costs the same whatever is there.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import sqlalchemy as sa

from evaluators.shown import Shown, shown
from everlearn.clock import Clock, SystemClock
from everlearn.errors import InputError, NotFound
from everlearn.lake.store import Lake
from everlearn.state import State
from everlearn.task import Task

Source = Literal["random", "audit", "disagreement", "uncertainty"]
SKIPS = 2
"""People who pass over an item before it leaves the queue."""

_metadata = sa.MetaData()
_items = sa.Table(
    "label_queue",
    _metadata,
    sa.Column("task", sa.String(64), primary_key=True),
    sa.Column("completion_id", sa.String(256), primary_key=True),
    sa.Column("content", sa.String(64), nullable=False),
    sa.Column("source", sa.String(16), nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("probability", sa.Float),
    sa.Column("place", sa.Float, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("holder", sa.String(256)),
    sa.Column("leased_until", sa.Float, nullable=False),
    sa.Column("labeller", sa.String(256)),
    sa.Column("decided_at", sa.Float),
    sa.Column("verdict", sa.Text),
    sa.Column("skips", sa.Integer, nullable=False),
    sa.Column("added_at", sa.Float, nullable=False),
    sa.Index("label_queue_order", "task", "state", "source", "place"),
    sa.Index("label_queue_mine", "task", "labeller", "decided_at"),
)
_ADD = sa.text("""
    INSERT INTO label_queue (task, completion_id, content, source, why, probability, place, state,
        leased_until, skips, added_at)
    VALUES (:task, :completion_id, :content, :source, :why, :probability, :place, 'open', 0, 0,
        :now)
    ON CONFLICT DO NOTHING
""")
_c = _items.c
_RANDOM = _c.source == "random"
_AUDIT = _c.source == "audit"
_WORTH = ~_RANDOM & ~_AUDIT


class Taken(InputError):
    """Somebody else holds the item, or has judged it meanwhile."""


@dataclass(frozen=True)
class Candidate:
    """An answer that is worth a label."""

    completion_id: str
    content: str
    """Hash of prompt and answer."""
    source: Source
    why: str
    place: float
    """0 is asked first, 1 last."""
    probability: float | None = None
    """Of the random share: that chance chose it."""


@dataclass(frozen=True)
class Item:
    """One answer of the queue."""

    completion_id: str
    source: Source
    why: str
    probability: float | None
    state: Literal["open", "labelled", "skipped"]
    labeller: str | None
    verdict: str | None
    """What was said of it, or why it was passed over."""


@dataclass(frozen=True)
class Progress:
    """How much waits, and how much was done."""

    open: int
    labelled: int
    skipped: int
    random_labelled: int
    mine: int
    """Labelled by whoever asks."""


class Queue:
    """Of one task."""

    def __init__(self, state: State, task: Task, clock: Clock | None = None) -> None:
        state.add_tables(_metadata)
        self._state, self._task, self._rules = state, task.task, task.labels
        self._clock = clock or SystemClock()
        self._open = (_c.task == self._task) & (_c.state == "open")

    def offer(self, candidates: Iterable[Candidate]) -> int:
        """Put answers into the queue, those that were in it left as they are; how many are new."""
        wanted = sorted(candidates, key=lambda each: each.completion_id)
        now, added = self._clock.now(), 0
        with self._state.transaction() as connection:
            asked = self._asked(connection, {each.content for each in wanted})
            for each in wanted:
                # The same answer to the same prompt is asked once; by chance as chance has it.
                if each.source == "random" or each.content not in asked:
                    row = {**vars(each), "task": self._task, "now": now}
                    added += connection.execute(_ADD, row).rowcount
                    asked.add(each.content)
            if added:
                self._trim(connection)
        return added

    def next(self, who: str) -> Item | None:
        """Lease the next item to `who`, the one he holds first; None: nothing waits for him."""
        while True:
            with self._state.transaction() as connection:
                row = self._choose(connection, who)
            if row is None:
                return None
            # Another labeller may have come between: then the next one is looked for.
            if self._lease(row.completion_id, who):
                return _item(row)

    def hold(self, completion_id: str, who: str) -> Item:
        """Make sure that the item is his; Taken or NotFound with the reason."""
        leased = self._lease(completion_id, who)
        row = self._find(completion_id)
        if row is None:
            raise NotFound(f"task {self._task}: {completion_id} is not in the label queue")
        if leased:
            return _item(row)
        if row.state != "open":
            raise Taken(f"{completion_id} was {row.state} meanwhile")
        raise Taken(f"{completion_id} is before somebody else: your time with it ran out")

    def claim(self, completion_id: str, who: str) -> Item | None:
        """The item for `who` to judge, as `hold`; None: somebody labels what was never queued, or
        changes his own label."""
        row = self._find(completion_id)
        if row is None or (row.state == "labelled" and row.labeller == who):
            return None if row is None else _item(row)
        return self.hold(completion_id, who)

    def label(self, completion_id: str, who: str, verdict: str) -> bool:
        """He gave a label, which is on its way to the lake; False: the item is not open."""
        row = self._find(completion_id)
        first = row is not None and row.labeller in (None, who) and not row.skips
        # Open with a labeller whom nobody's skip stands beside: labelled once, and asked again.
        state = "open" if first and self._overlaps(row) else "labelled"
        return self._decide(completion_id, who, {"state": state, "verdict": verdict})

    def skip(self, completion_id: str, who: str, reason: str = "") -> bool:
        """He cannot tell; the item waits for others, until `SKIPS` people have said so."""
        row = self._find(completion_id)
        if row is None or row.state != "open":
            return False
        if _labelled_once(row) and row.labeller != who:  # the label that is there will do
            with self._state.transaction() as connection:
                this = self._open & self._this(completion_id)
                connection.execute(_items.update().where(this).values(state="labelled"))
            return True
        skips = row.skips + (row.labeller != who)
        state = "open" if skips < SKIPS else "skipped"
        change = {"state": state, "skips": skips, "verdict": reason.strip() or None}
        return self._decide(completion_id, who, change)

    def last(self, who: str) -> Item | None:
        """What he decided last: the one that can be undone."""
        mine = (_c.task == self._task) & (_c.labeller == who)
        query = sa.select(_items).where(mine).order_by(_c.decided_at.desc()).limit(1)
        with self._state.transaction() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        item = _item(row)
        return replace(item, state="labelled") if _labelled_once(row) else item

    def undo(self, completion_id: str, who: str) -> bool:
        """Put before him again what he decided."""
        mine = self._this(completion_id) & (_c.labeller == who)
        change = {
            "state": "open", "labeller": None, "verdict": None, "decided_at": None,
            "skips": 0, "holder": who, "leased_until": self._lease_end(),
        }  # fmt: skip
        with self._state.transaction() as connection:
            return connection.execute(_items.update().where(mine).values(change)).rowcount == 1

    def drop(self, completion_id: str) -> None:
        """The answer is no longer there."""
        with self._state.transaction() as connection:
            connection.execute(_items.delete().where(self._this(completion_id)))

    def items(self, limit: int, state: str = "open") -> list[Item]:
        """What waits, or what was labelled or skipped; the random share first."""
        query = sa.select(_items).where((_c.task == self._task) & (_c.state == state))
        query = query.order_by(_RANDOM.desc(), _c.place, _c.completion_id).limit(limit)
        with self._state.transaction() as connection:
            return [_item(row) for row in connection.execute(query)]

    def passed(self) -> set[str]:
        """Answers that left the queue because nobody who was asked could tell."""
        query = sa.select(_c.completion_id).where((_c.task == self._task) & (_c.state == "skipped"))
        with self._state.transaction() as connection:
            return set(connection.execute(query).scalars())

    def progress(self, who: str | None = None) -> Progress:
        """Counts."""
        query = sa.select(_c.state, _RANDOM.label("random"), sa.func.count().label("rows"))
        query = query.where(_c.task == self._task).group_by(_c.state, _RANDOM)
        labelled = (_c.task == self._task) & (_c.state == "labelled") & (_c.labeller == who)
        with self._state.transaction() as connection:
            counts = {(row.state, bool(row.random)): row.rows for row in connection.execute(query)}
            own = connection.execute(sa.select(sa.func.count()).where(labelled)).scalar_one()
        rows = {
            state: counts.get((state, True), 0) + counts.get((state, False), 0)
            for state in ("open", "labelled", "skipped")
        }
        return Progress(**rows, random_labelled=counts.get(("labelled", True), 0), mine=own)

    def _choose(self, connection: sa.Connection, who: str) -> Any:
        """His own lease, else the first free one of the side that was asked less."""
        now = self._clock.now()
        held = (_c.holder == who) & (_c.leased_until > now)
        free = (_c.leased_until <= now) & sa.or_(_c.labeller.is_(None), _c.labeller != who)
        row = self._first(connection, held)
        if row is not None:
            return row
        labelled = (_c.task == self._task) & (_c.state == "labelled")

        def asked(side: sa.ColumnElement[bool]) -> int:
            query = sa.select(sa.func.count()).where(labelled & side)
            return int(connection.execute(query).scalar_one())

        by_chance, audit, worth = asked(_RANDOM), asked(_AUDIT), asked(_WORTH)
        chosen = [_AUDIT, _WORTH] if audit <= worth else [_WORTH, _AUDIT]
        sides = [_RANDOM, *chosen] if by_chance <= audit + worth else [*chosen, _RANDOM]
        for side in sides:
            row = self._first(connection, free & side)
            if row is not None:
                return row
        return None

    def _first(self, connection: sa.Connection, which: sa.ColumnElement[bool]) -> Any:
        query = sa.select(_items).where(self._open & which)
        query = query.order_by(_c.place, _c.completion_id).limit(1)
        return connection.execute(query).one_or_none()

    def _lease(self, completion_id: str, who: str) -> bool:
        mine = sa.or_(_c.holder == who, _c.leased_until <= self._clock.now())
        change = {"holder": who, "leased_until": self._lease_end()}
        update = _items.update().where(self._open & self._this(completion_id) & mine)
        with self._state.transaction() as connection:
            return connection.execute(update.values(change)).rowcount == 1

    def _decide(self, completion_id: str, who: str, change: Mapping[str, Any]) -> bool:
        change = {
            **change, "labeller": who, "decided_at": self._clock.now(), "holder": None,
            "leased_until": 0.0,
        }  # fmt: skip
        update = _items.update().where(self._open & self._this(completion_id))
        with self._state.transaction() as connection:
            return connection.execute(update.values(change)).rowcount == 1

    def _trim(self, connection: sa.Connection) -> None:
        """Down to the bound, each side to its share; what somebody holds stays."""
        free = self._open & (_c.leased_until <= self._clock.now())
        half = self._rules.max_open // 2
        waiting = sa.select(sa.func.count()).where(free & _AUDIT)
        audit = min(half // 2, connection.execute(waiting).scalar_one())
        for side, most in ((_RANDOM, half), (_AUDIT, audit), (_WORTH, half - audit)):
            over = sa.select(_c.completion_id, _c.place).where(free & side)
            over = over.order_by(_c.place, _c.completion_id).offset(most)
            rows = connection.execute(over).all()
            if not rows:
                continue
            gone = _c.completion_id.in_([row.completion_id for row in rows])
            connection.execute(_items.delete().where(self._open & gone))
            if side is _RANDOM:
                # What is left is what a smaller chance would have chosen.
                less = self._open & _RANDOM & (_c.probability > rows[0].place)
                connection.execute(_items.update().where(less).values(probability=rows[0].place))

    def _asked(self, connection: sa.Connection, contents: Collection[str]) -> set[str]:
        query = sa.select(_c.content).where((_c.task == self._task) & _c.content.in_(contents))
        return set(connection.execute(query).scalars())

    def _overlaps(self, row: Any) -> bool:
        digest = hashlib.sha256(f"overlap|{row.completion_id}".encode()).hexdigest()
        share = int(digest[:13], 16) / 2**52
        return row.source == "random" and share < self._rules.overlap_percent / 100

    def _find(self, completion_id: str) -> Any:
        with self._state.transaction() as connection:
            query = sa.select(_items).where(self._this(completion_id))
            return connection.execute(query).one_or_none()

    def _this(self, completion_id: str) -> sa.ColumnElement[bool]:
        return (_c.task == self._task) & (_c.completion_id == completion_id)

    def _lease_end(self) -> float:
        return self._clock.now() + 60 * self._rules.lease_minutes


def forget(state: State, completion_ids: Collection[str]) -> int:
    """Take these answers out of every task's queue, what was said of them too; how many."""
    state.add_tables(_metadata)
    with state.transaction() as connection:
        if connection.dialect.name == "sqlite":
            # Bytes of deleted rows are overwritten, not only marked as free.
            connection.execute(sa.text("PRAGMA secure_delete = ON"))
        gone = _c.completion_id.in_(list(completion_ids))
        return connection.execute(_items.delete().where(gone)).rowcount


def ask(queue: Queue, lake: Lake, task: str, who: str) -> Shown | None:
    """The next item with its conversation; what is no longer in the lake leaves the queue."""
    while (item := queue.next(who)) is not None:
        found = shown(lake, task, item.completion_id)
        if found is not None:
            return found
        queue.drop(item.completion_id)
    return None


def _labelled_once(row: Any) -> bool:
    """By one of the two people who are to."""
    return row.state == "open" and row.labeller is not None and not row.skips


def _item(row: Any) -> Item:
    return Item(
        row.completion_id, row.source, row.why, row.probability, row.state, row.labeller,
        row.verdict,
    )  # fmt: skip

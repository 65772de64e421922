"""What a task's judges and embeddings may cost in a day (UTC): one sum in the state store for every
process.

- A question is paid for before it is asked, by what it is likely to cost, and corrected by what it
  did cost: questions in flight are counted, and so is one whose process was killed.
- The first question that does not fit closes the day; a higher limit opens it again.
- Who is refused is unscored and says so; nothing but judging stops.
"""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa

from everlearn.clock import Clock, SystemClock
from everlearn.config import Service, Upstream
from everlearn.errors import ConfigError, GraderError
from everlearn.state import State, open_state
from everlearn.task import Task

SPENT = "budget: judges.max_cost_per_day"
"""How the reason begins of what is unscored for want of money."""

_metadata = sa.MetaData()
_days = sa.Table(
    "judge_spending",
    _metadata,
    sa.Column("task", sa.String(64), primary_key=True),
    sa.Column("day", sa.String(10), primary_key=True),
    sa.Column("spent", sa.Float, nullable=False),
    sa.Column("questions", sa.Integer, nullable=False),
    sa.Column("closed_at", sa.Float),
)
_BEGIN = sa.text("""
    INSERT INTO judge_spending (task, day, spent, questions) VALUES (:task, :day, 0, 0)
    ON CONFLICT DO NOTHING
""")
_c = _days.c


class BudgetSpent(GraderError):
    """The day's money is spent: nobody was asked."""


@dataclass(frozen=True)
class Spending:
    """Of one task on one day, in the currency of the upstreams' prices."""

    day: str
    spent: float
    questions: int
    limit: float
    closed: bool
    """Judges are no longer asked on this day."""

    def __str__(self) -> str:
        state = ", spent: what is new waits for tomorrow" if self.closed else ""
        return (
            f"{self.spent:.4g} of {self.limit:g} on {self.questions} questions, {self.day} UTC"
            f"{state}"
        )


@dataclass(frozen=True)
class Reserved:
    """What was set aside for one question."""

    day: str
    cost: float


class Budget:
    """Of one task; opens the state store with the first question."""

    def __init__(
        self, service: Service, task: str, limit: float, clock: Clock | None = None
    ) -> None:
        self.limit = limit
        self._service, self._task = service, task
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._state: State | None = None

    async def reserve(self, cost: float) -> Reserved:
        """Set aside what a question is likely to cost; BudgetSpent where it does not fit."""
        return await asyncio.to_thread(self._reserve, cost)

    async def settle(self, reserved: Reserved, paid: float) -> None:
        """It cost that."""
        await asyncio.to_thread(self._settle, reserved, paid)

    async def aclose(self) -> None:
        """Drop the connections."""
        with self._lock:
            if self._state is not None:
                self._state.close()
                self._state = None

    def _reserve(self, cost: float) -> Reserved:
        day = today(self._clock)
        this = (_c.task == self._task) & (_c.day == day)
        is_open = _c.closed_at.is_(None) | (_c.closed_at < self.limit)
        fits = this & is_open & (_c.spent + cost <= self.limit)
        more = {"spent": _c.spent + cost, "questions": _c.questions + 1}
        with self._opened().transaction() as connection:
            connection.execute(_BEGIN, {"task": self._task, "day": day})
            if connection.execute(_days.update().where(fits).values(more)).rowcount:
                return Reserved(day, cost)
            connection.execute(_days.update().where(this & is_open).values(closed_at=self.limit))
            spent = connection.execute(sa.select(_c.spent).where(this)).scalar_one()
        raise BudgetSpent(
            f"{SPENT} = {self.limit:g} of task {self._task} is spent ({spent:.4g} on {day} UTC): "
            "judged again tomorrow, or when the limit is higher"
        )

    def _settle(self, reserved: Reserved, paid: float) -> None:
        this = (_c.task == self._task) & (_c.day == reserved.day)
        change = _days.update().where(this).values(spent=_c.spent + (paid - reserved.cost))
        with self._opened().transaction() as connection:
            connection.execute(change)

    def _opened(self) -> State:
        with self._lock:
            if self._state is None:
                self._state = open_state(self._service)
                self._state.add_tables(_metadata)
            return self._state


@dataclass
class Bill:
    """Of one question."""

    price: float | None = None
    """What it cost; None: not known, what was set aside stays spent."""


@asynccontextmanager
async def paying(budget: Budget | None, likely: float) -> AsyncIterator[Bill]:
    """Ask within: paid for before by what is `likely`, after by the bill; BudgetSpent where it does
    not fit. One that was refused costs nothing; one that ran out of time may have been worked on.
    """
    bill = Bill()
    if budget is None:
        yield bill
        return
    reserved = await budget.reserve(likely)
    try:
        yield bill
    except GraderError:
        await budget.settle(reserved, 0.0)
        raise
    if bill.price is not None:
        await budget.settle(reserved, bill.price)


def budget_of(task: Task, service: Service | None) -> Budget | None:
    """The task's budget; None where it sets no limit, or nobody can be asked anyway."""
    limit = task.judges.max_cost_per_day
    return None if limit is None or service is None else Budget(service, task.task, limit)


def require_price(upstream: Upstream, limit: float, grader: str) -> None:
    """ConfigError where a limit could not be counted."""
    if upstream.price is None:
        raise ConfigError(
            f"grader {grader}: judges.max_cost_per_day = {limit:g}: the upstream at "
            f"{upstream.base_url} has no price to count by; give it price: {{prompt_per_million, "
            "completion_per_million} or {per_replica_hour}"
        )


def spending(state: State, task: Task, clock: Clock | None = None) -> Spending | None:
    """Of today; None where the task sets no limit."""
    limit = task.judges.max_cost_per_day
    if limit is None:
        return None
    state.add_tables(_metadata)
    day = today(clock or SystemClock())
    query = sa.select(_days).where((_c.task == task.task) & (_c.day == day))
    with state.transaction() as connection:
        row = connection.execute(query).one_or_none()
    if row is None:
        return Spending(day, 0.0, 0, limit, closed=False)
    closed = row.closed_at is not None and row.closed_at >= limit
    return Spending(day, row.spent, row.questions, limit, closed)


def today(clock: Clock) -> str:
    """The day in UTC."""
    return datetime.fromtimestamp(clock.now(), UTC).date().isoformat()

"""One look at a task: the newest window of live traffic against its reference.

1. Read how far the last look went (`drift_looks`), then the window: the newest rows since. Too few:
   not enough evidence, nothing is written and nothing is spent.
2. Compare every metric; what is unlikely at this look's level and large enough is an alarm.
3. Write the look and its numbers in one transaction; whoever was second at it writes nothing.

A metric that stands out is an event once (`drift`), stays so quietly (`standing`) while it does,
and is an event again when all is as it was (`calm`).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from evaluators.drift.compare import Change, alarms, changes, level
from evaluators.drift.describe import Values
from evaluators.drift.windows import EPOCH, Bounds, Rows, around, described, independent, read
from everlearn.errors import NotEnoughEvidence
from everlearn.lake.store import Lake, Transaction
from everlearn.task import Task

REFERENCE_WINDOWS = 4
"""The reference holds so many windows at most: a small one is the weaker half of every test."""


@dataclass(frozen=True)
class Look:
    """What one look found."""

    task: str
    look: int
    event: str
    """drift, standing, calm (after drift) or quiet"""
    reason: str
    metrics: tuple[str, ...]
    """Those that stand out."""
    reference: Bounds
    window: Bounds
    reference_rows: int
    window_rows: int
    level: float
    """P-value below which one metric is an alarm at this look."""
    changes: tuple[Change, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        plain = asdict(self)
        for name in ("reference", "window"):
            plain[name] = [moment.isoformat() for moment in plain[name]]
        plain["changes"] = [
            {**change._asdict(), "alarm": change.metric in self.metrics} for change in self.changes
        ]
        return plain


@dataclass(frozen=True)
class Compared:
    """Values of both windows, for whoever draws them."""

    before: list[Values]
    now: list[Values]


def look(lake: Lake, task: Task) -> tuple[Look, Compared]:
    """Look once; NotEnoughEvidence when no new window is full or there is no reference yet."""
    last = latest(lake, task.task)
    reference, window = _windows(lake, task, last)
    bounds, sizes = (around(reference), around(window)), (len(reference), len(window))
    reference, window, one_each = independent(reference, window)
    before, now = described(lake, task, reference, window)
    found = changes(before, now)
    number = 1 if last is None else last["look"] + 1
    spend = level(number, task.drift.false_alarms)
    standing = alarms(found, spend, task.drift.min_shift)
    metrics = tuple(change.metric for change in standing)
    done = Look(
        task=task.task,
        look=number,
        event=_event(metrics, () if last is None else tuple(last["metrics"] or ())),
        reason=_reason(found, standing) + _circumstances(reference, window, one_each),
        metrics=metrics,
        reference=bounds[0],
        window=bounds[1],
        reference_rows=sizes[0],
        window_rows=sizes[1],
        level=spend / max(1, len(found)),
        changes=tuple(found),
    )
    _write(lake, done)
    return done, Compared(before, now)


def accept(lake: Lake, task: Task) -> int:
    """Take the last window as the new reference: what it shows is meant. Its look's number."""
    last = latest(lake, task.task)
    if last is None:
        raise NotEnoughEvidence(f"task {task.task}: nobody has looked yet: everlearn drift first")
    row = {
        **last,
        "event": "accepted",
        "reason": f"the window of look {last['look']} is the reference",
        "metrics": None,
        "reference_since": last["window_since"],
        "reference_until": last["window_until"],
        "reference_rows": last["window_rows"],
        "created_at": datetime.now(UTC),
    }
    lake.commit(lambda transaction: transaction.append("drift_looks", [row]))
    return int(last["look"])


def latest(lake: Lake, task: str) -> dict[str, Any] | None:
    """The last look's row, or that it was accepted."""
    import json

    sql = "SELECT * FROM drift_looks WHERE task = ? ORDER BY look DESC, created_at DESC LIMIT 1"
    rows = lake.read(sql, [task]).to_pylist()
    return {**rows[0], "metrics": json.loads(rows[0]["metrics"] or "[]")} if rows else None


def _windows(lake: Lake, task: Task, last: Mapping[str, Any] | None) -> tuple[Rows, Rows]:
    """The first look splits the newest rows; later ones keep the reference, which grows by calm
    windows until it is large enough."""
    size, most = task.drift.window, REFERENCE_WINDOWS * task.drift.window
    now = datetime.now(UTC)
    if last is None:
        rows = read(lake, task.task, Bounds(EPOCH, now), most + size)
        _require(task, len(rows), 2 * size, "for a reference and a first window")
        return rows[:-size], rows[-size:]
    window = read(lake, task.task, Bounds(last["window_until"], now), size)
    _require(task, len(window), size, f"since look {last['look']} at {last['window_until']:%F %T}")
    until = last["reference_until"]
    if last["event"] in ("quiet", "calm") and last["reference_rows"] < most:
        until = last["window_until"]
    reference = read(lake, task.task, Bounds(last["reference_since"], until), most)
    _require(task, len(reference), size // 2, "in the reference: some were erased; --accept a new")
    return reference, window


def _require(task: Task, rows: int, wanted: int, what: str) -> None:
    if rows < wanted:
        raise NotEnoughEvidence(
            f"task {task.task}: {rows} of {wanted} completions {what} (drift.window = "
            f"{task.drift.window})"
        )


def _event(metrics: tuple[str, ...], before: tuple[str, ...]) -> str:
    if not metrics:
        return "calm" if before else "quiet"
    return "standing" if set(metrics) <= set(before) else "drift"


def _reason(found: list[Change], standing: list[Change]) -> str:
    if not found:
        return "nothing to compare: no metric has values on both sides"
    if not standing:
        first = found[0]
        return f"nothing stands out of {len(found)} metrics; least likely {told(first)}"
    return "; ".join(told(change) for change in standing[:5])


def told(change: Change) -> str:
    """One change in one line."""
    name = change.metric if change.detail is None else f"{change.metric} {change.detail}"
    if change.kind == "number":
        values = f"{change.before:.4g} -> {change.now:.4g}, {change.shift:.0%} of rows moved"
    else:
        values = f"{change.before:.1%} -> {change.now:.1%}"
    return f"{name} {values} (p = {change.p_value:.1e})"


def _circumstances(reference: Rows, window: Rows, one_each: bool) -> str:
    """What else a reader must know."""
    versions = [{row["version"] or "base" for row in rows} for rows in (reference, window)]
    notes = []
    if versions[1] - versions[0]:
        notes.append(f"answers of version {', '.join(sorted(versions[1] - versions[0]))} are new")
    if not one_each:
        notes.append("few users: their rows depend on each other, false alarms are likelier")
    return "".join(f"; {note}" for note in notes)


def _write(lake: Lake, done: Look) -> None:
    moment = datetime.now(UTC)
    head = {
        **{name: getattr(done, name) for name in ("task", "look", "event", "reason", "level")},
        "metrics": list(done.metrics),
        "reference_since": done.reference.since,
        "reference_until": done.reference.until,
        "window_since": done.window.since,
        "window_until": done.window.until,
        "reference_rows": done.reference_rows,
        "window_rows": done.window_rows,
        "created_at": moment,
    }
    rows = [
        {
            **{"task": done.task, "look": done.look, "created_at": moment},
            **{"alarm": change.metric in done.metrics, **change._asdict()},
        }
        for change in done.changes
    ]

    def work(transaction: Transaction) -> None:
        sql = "SELECT 1 FROM drift_looks WHERE task = ? AND look = ? LIMIT 1"
        if transaction.query(sql, [done.task, done.look]):
            return
        transaction.append("drift_looks", [head])
        transaction.append("drift", rows)

    lake.commit(work)

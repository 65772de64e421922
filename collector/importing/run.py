"""An import, start to end: rows of a file to events, events to the lake by the collector's batch.

- What the lake holds already is not written again: the same file twice gives the same rows.
- A batch is one transaction, its position in the `offsets` of the source `import` with it: killed
  between two, the next run goes on where it stood.
- A row that cannot be taken is counted with its reason and stops nobody.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from collector.batch import Batch
from collector.collect import fence, move
from collector.compact import Compaction
from collector.importing import langfuse, openai, tensorzero
from collector.importing.read import Row, is_parquet, rows
from collector.importing.rows import Events, Refused, Skipped, Terms
from everlearn.errors import InputError
from everlearn.events import Completion, Event, encode
from everlearn.lake.ducklake import DuckLake
from everlearn.lake.store import Transaction
from everlearn.log.bus import Record

SOURCE = "import"
"""Of `offsets`, and the gateway_id of imported rows."""
BATCH_EVENTS = 10_000
SHOWN_REASONS = 1000
"""Refused rows named in the report; all are counted."""

FORMATS: Mapping[str, Callable[[dict[str, Any], Terms], Events]] = {
    "openai": openai.events,
    "langfuse": langfuse.events,
    "tensorzero": tensorzero.events,
    # A table with the columns of OpenAI's rows, JSON as text or nested.
    "parquet": openai.events,
}


@dataclass
class Report:
    """What became of a file."""

    rows: int = 0
    completions: int = 0
    """New in the lake."""
    feedback: int = 0
    """New in the lake."""
    repeated: int = 0
    """Completions and feedback that stood there already, or twice in the file."""
    skipped: int = 0
    """Rows of another kind: spans, events."""
    refused: int = 0
    reasons: list[tuple[int, str]] = field(default_factory=list)
    """Row number and reason, of the first refused ones."""


def run(
    lake: DuckLake, path: Path, terms: Terms, progress: Callable[[int], None] = lambda _: None
) -> Report:
    """Import the file; `progress` is told how far it is read."""
    if terms.format == "parquet" and not is_parquet(path):
        others = ", ".join(name for name in FORMATS if name != "parquet")
        raise InputError(f"{path} is no Parquet file; of JSON --format says who wrote it: {others}")
    report, compaction = Report(), Compaction(lake)
    lake.commit(fence)
    for batch in _batches(path, terms, report, progress):
        size = _store(lake, batch, report)
        compaction.after_commit(size)
    return report


def _batches(
    path: Path, terms: Terms, report: Report, progress: Callable[[int], None]
) -> Iterator[Events]:
    waiting: Events = []
    for row in rows(path):
        report.rows += 1
        waiting += _read(row, terms, report)
        if len(waiting) >= BATCH_EVENTS:
            yield waiting
            waiting = []
            progress(row.position)
    yield waiting


def _read(row: Row, terms: Terms, report: Report) -> Events:
    try:
        if row.content is None:
            raise Refused("not a JSON object")
        return FORMATS[terms.format](row.content, terms)
    except Skipped:
        report.skipped += 1
    except Exception as error:  # one row stops nobody
        reason = str(error) if isinstance(error, Refused) else f"{type(error).__name__}: {error}"
        report.refused += 1
        if len(report.reasons) < SHOWN_REASONS:
            report.reasons.append((row.number, reason[:300]))
    return []


def _store(lake: DuckLake, events: Sequence[Event], report: Report) -> int:
    """Write what is new in one transaction; the bytes written."""
    by_id = {_id(event): event for event in events}
    fresh = lake.commit(lambda transaction: _write(transaction, by_id))
    answered = sum(isinstance(event, Completion) for event in fresh)
    report.completions += answered
    report.feedback += len(fresh) - answered
    report.repeated += len(events) - len(fresh)
    return sum(len(event.request) for event in fresh if isinstance(event, Completion))


def _id(event: Event) -> str:
    return event.completion_id if isinstance(event, Completion) else event.feedback_id


_KNOWN = """
SELECT completion_id AS id FROM completions WHERE gateway_id = $1 AND completion_id IN $2
UNION ALL SELECT feedback_id FROM feedback WHERE gateway_id = $1 AND feedback_id IN $2"""


def _write(transaction: Transaction, by_id: Mapping[str, Event]) -> list[Event]:
    known = {row["id"] for row in transaction.query(_KNOWN, [SOURCE, list(by_id)])}
    fresh = [event for name, event in by_id.items() if name not in known]
    if not fresh:
        return fresh
    sql = "SELECT source, position FROM offsets WHERE source = ?"
    before = {row["source"]: row["position"] for row in transaction.query(sql, [SOURCE])}
    first = before.get(SOURCE, 1)
    batch = Batch(
        [
            Record(SOURCE, number, SOURCE, number, encode(event))
            for number, event in enumerate(fresh, first)
        ]
    )
    for name, table in batch.tables():
        transaction.append(name, table)
    move(transaction, before, {SOURCE: first + len(fresh)})
    return fresh

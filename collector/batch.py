"""Records as Arrow, a chunk at a time: what cannot become a row becomes a dead letter."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from collector.decode import (
    COMPLETION_FIELDS,
    FEEDBACK_FIELDS,
    Row,
    completion_row,
    feedback_row,
)
from everlearn.events import Completion, decode
from everlearn.lake.columns import COMPLETIONS, DEAD_LETTERS, FEEDBACK, FOUND, TableSpec
from everlearn.lake.schema import arrow_schema
from everlearn.log.bus import Record
from everlearn.process_log import about, about_bytes
from everlearn.tolerant import mended

CHUNK = 2048
"""Records decoded before they become Arrow: what Python and Arrow make of so many is written by the
lake while it is still in the processor's cache, and the same memory serves the next chunk."""

_SCHEMAS = {spec.name: arrow_schema(spec) for spec in (COMPLETIONS, FEEDBACK, DEAD_LETTERS)}
for _name in FOUND:
    _place = _SCHEMAS[FEEDBACK.name].get_field_index(_name)
    _SCHEMAS[FEEDBACK.name] = _SCHEMAS[FEEDBACK.name].remove(_place)
_FIELDS = {
    COMPLETIONS.name: COMPLETION_FIELDS,
    FEEDBACK.name: FEEDBACK_FIELDS,
    DEAD_LETTERS.name: DEAD_LETTERS.names,
}
_NAMES = frozenset(
    {
        *("upstream_id", "request_id", "conversation_id", "unit", "model_requested"),
        *("completion_id", "other_completion_id", "name", "author_id", "idempotency_key"),
    }
)
"""Columns that rows are joined and found by, and that others choose the values of. DuckLake fails
on a NUL in what it looks for, with it every later batch: there a NUL is U+FFFD. Texts keep theirs.
"""
_IDENTITY = frozenset({"completion_id", "feedback_id", "gateway_id", "seq", "received_at"})
_BAD = (ValueError, OverflowError, pa.ArrowException)


class Batch:
    """Rows by table, in the order of the records; decoded while the completions are read."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = records
        self._feedback: list[Row] = []
        self._dead: list[Row] = []
        self.rows = 0
        """Read so far, dead letters not counted."""
        self.told: list[dict[str, Any]] = []
        """Extras of a line of the process log for each dead letter and each row that lost values.
        """

    @property
    def dead_letters(self) -> int:
        """Records met so far that are no rows."""
        return len(self._dead)

    def tables(self) -> Iterator[tuple[str, pa.Table | pa.RecordBatchReader]]:
        """What to append, by table name; each is read to its end before the next is asked for."""
        schema = _SCHEMAS[COMPLETIONS.name]
        yield COMPLETIONS.name, pa.RecordBatchReader.from_batches(schema, self._completions())
        yield FEEDBACK.name, pa.Table.from_batches([self._arrow(FEEDBACK, self._feedback)])
        yield DEAD_LETTERS.name, pa.Table.from_batches([to_arrow(DEAD_LETTERS, self._dead)])

    def _completions(self) -> Iterator[pa.RecordBatch]:
        for start in range(0, len(self._records), CHUNK):
            yield self._arrow(COMPLETIONS, self._decode(self._records[start : start + CHUNK]))

    def _decode(self, records: Sequence[Record]) -> list[Row]:
        """The rows of completions; feedback is put aside."""
        completions: list[Row] = []
        for record in records:
            gateway_id, seq, payload = record.gateway_id, record.seq, record.payload
            if record.error is not None:
                self._bury(gateway_id, seq, record.error, payload)
                continue
            try:
                event = decode(payload)
                if isinstance(event, Completion):
                    completions.append(completion_row(event, gateway_id, seq))
                else:
                    self._feedback.append(feedback_row(event, gateway_id, seq))
            except Exception as reason:  # nothing that a record holds stops the stream
                self._bury(gateway_id, seq, f"{type(reason).__name__}: {reason}", payload)
        return completions

    def _arrow(self, spec: TableSpec, rows: list[Row]) -> pa.RecordBatch:
        """The rows; of one with a value that its column does not take, what is left of it."""
        try:
            found = to_arrow(spec, rows)
        except _BAD:
            kept = (self._taken(spec, row) for row in rows)
            found = to_arrow(spec, [row for row in kept if row is not None])
        self.rows += found.num_rows
        return found

    def _taken(self, spec: TableSpec, row: Row) -> Row | None:
        """The row as its columns take it: a value too large is null, half a character U+FFFD. One
        that is nobody without such a value is buried."""
        fields, kinds = _FIELDS[spec.name], _SCHEMAS[spec.name]
        values = dict(zip(fields, row, strict=True))
        names, lost = about(values["completion_id"], values["request_id"]), False
        try:
            for name in kinds.names:
                fitting = _fitting(values[name], kinds.field(name).type, name in _IDENTITY)
                lost |= fitting is not values[name]
                values[name] = fitting
        except _BAD as error:
            raw = repr(tuple(values[name] for name in kinds.names)).encode(errors="replace")
            self._bury(values["gateway_id"], values["seq"], f"{spec.name}: {error}", raw)
            self.told[-1] |= names
            return None
        if lost:
            self.told.append({**names, "status": "stored, but changed to fit"})
        return tuple(values[name] for name in fields)

    def _bury(self, gateway_id: str, seq: int | None, reason: str, raw: bytes | memoryview) -> None:
        raw = bytes(raw)
        self._dead.append((gateway_id, seq or None, reason, raw, int(time.time() * 1e6)))
        origin = {"gateway_id": gateway_id, "seq": seq, "status": "dead letter"}
        self.told.append({**about_bytes(raw), **origin})


def _fitting(value: Any, kind: pa.DataType, needed: bool) -> Any:
    """The value if a column of this type takes it, else what is left of it; raises if `needed`."""
    try:
        pa.array([value], kind)
    except _BAD:
        if isinstance(value, str):
            return mended(value)
        if needed:
            raise
        return None
    return value


def to_arrow(spec: TableSpec, rows: Sequence[Row]) -> pa.RecordBatch:
    """The collector's rows of one table as Arrow; raises what is in `_BAD`."""
    schema, fields = _SCHEMAS[spec.name], _FIELDS[spec.name]
    values = zip(*rows, strict=True) if rows else ((),) * len(fields)
    columns = dict(zip(fields, values, strict=True))
    arrays = [pa.array(columns[field.name], field.type) for field in schema]
    for name in _NAMES & set(schema.names):
        at = schema.get_field_index(name)
        if pc.any(pc.match_substring(arrays[at], "\0")).as_py():
            arrays[at] = pc.replace_substring(arrays[at], "\0", "\ufffd")
    return pa.RecordBatch.from_arrays(arrays, schema=schema)

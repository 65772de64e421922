"""A batch of records as Arrow tables: what cannot become a row becomes a dead letter."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import pyarrow as pa

from collector.decode import Row, completion_row, feedback_row
from everlearn.bus import Record
from everlearn.columns import COMPLETIONS, DEAD_LETTERS, FEEDBACK, TableSpec
from everlearn.events import Completion, decode
from everlearn.schema import arrow_schema

_SCHEMAS = {spec.name: arrow_schema(spec) for spec in (COMPLETIONS, FEEDBACK, DEAD_LETTERS)}
_BAD = (msgspec.DecodeError, ValueError, OverflowError, pa.ArrowException)


@dataclass
class Batch:
    """Rows by table, in the order of the records."""

    completions: list[Row] = field(default_factory=list)
    feedback: list[Row] = field(default_factory=list)
    dead_letters: list[Row] = field(default_factory=list)

    def tables(self) -> dict[str, pa.Table]:
        """Arrow tables by name; a row with a value that no column takes is a dead letter."""
        completions = self._table(COMPLETIONS, self.completions)
        feedback = self._table(FEEDBACK, self.feedback)
        dead = to_table(DEAD_LETTERS, self.dead_letters)
        return {"completions": completions, "feedback": feedback, "dead_letters": dead}

    def _table(self, spec: TableSpec, rows: list[Row]) -> pa.Table:
        try:
            return to_table(spec, rows)
        except _BAD:
            return to_table(spec, [row for row in rows if self._takes(spec, row)])

    def _takes(self, spec: TableSpec, row: Row) -> bool:
        try:
            to_table(spec, [row])
        except _BAD as error:
            gateway, seq = (row[spec.names.index(name)] for name in ("gateway_id", "seq"))
            self.bury(gateway, seq, f"{spec.name}: {error}", repr(row).encode())
            return False
        return True

    def bury(self, gateway_id: str, seq: int | None, reason: str, raw: bytes) -> None:
        """Add a dead letter."""
        self.dead_letters.append((gateway_id, seq or None, reason, raw, int(time.time() * 1e6)))


def to_table(spec: TableSpec, rows: Sequence[Row]) -> pa.Table:
    """Rows in column order as an Arrow table."""
    schema = _SCHEMAS[spec.name]
    columns = zip(*rows, strict=True) if rows else ((),) * len(schema)
    arrays = [pa.array(column, fld.type) for column, fld in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def read_batch(records: Sequence[Record]) -> Batch:
    """Decode every record."""
    batch = Batch()
    for record in records:
        if record.error is not None:
            batch.bury(record.gateway_id, record.seq, record.error, record.payload)
            continue
        try:
            event = decode(record.payload)
            if isinstance(event, Completion):
                batch.completions.append(completion_row(event, record.gateway_id, record.seq))
            else:
                batch.feedback.append(feedback_row(event, record.gateway_id, record.seq))
        except _BAD as error:
            reason = f"{type(error).__name__}: {error}"
            batch.bury(record.gateway_id, record.seq, reason, record.payload)
    return batch

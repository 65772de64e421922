"""One transaction of the lake: rows are appended as they come; what feedback is about is found when
it ends, after the completions beside it are written."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import duckdb
import pyarrow as pa

from everlearn.errors import InputError
from everlearn.lake.arrow import complete, to_arrow
from everlearn.lake.columns import COMPLETIONS, FEEDBACK, TABLES
from everlearn.lake.targets import NAMES, Targets

SPECS = {table.name: table for table in TABLES}


class DuckTransaction:
    """All or nothing; valid only inside `DuckLake.commit`."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection, targets: Targets) -> None:
        self._cursor, self._targets = cursor, targets
        self._said: list[pa.Table] = []
        self._arrived: list[pa.RecordBatch] = []
        """Feedback that is not written yet, names of completions that are: both are brought
        together by `settle`."""

    def append(
        self, table: str, rows: Sequence[Mapping[str, Any]] | pa.Table | pa.RecordBatchReader
    ) -> None:
        """Add rows, a stream of them read as it is written; missing columns are null, an unknown
        column is an InputError."""
        spec = SPECS.get(table)
        if spec is None:
            raise InputError(f"no table {table!r} in the lake: {', '.join(SPECS)}")
        arrow = rows if isinstance(rows, pa.Table | pa.RecordBatchReader) else to_arrow(spec, rows)
        unknown = set(arrow.schema.names) - set(spec.names)
        if unknown:
            raise InputError(f"{table} has no column {', '.join(sorted(unknown))}")
        if isinstance(arrow, pa.Table) and arrow.num_rows == 0:
            return
        if table == FEEDBACK.name:
            rows = arrow if isinstance(arrow, pa.Table) else arrow.read_all()
            self._said.append(complete(rows))
            return
        if table == COMPLETIONS.name and self._targets.waits(self._cursor):
            arrow = self._noted(arrow)
        self._insert(table, arrow)

    def settle(self) -> None:
        """Find what feedback is about, now that the completions are written, and write it."""
        said, self._said = self._said, []
        arrived, self._arrived = self._arrived, []
        if said:
            self._insert(FEEDBACK.name, self._targets.resolve(self._cursor, pa.concat_tables(said)))
        if arrived:
            self._targets.arrive(self._cursor, pa.Table.from_batches(arrived))

    def find_targets(self) -> int:
        """See `DuckLake.find_targets`."""
        return self._targets.sweep(self._cursor)

    def _noted(self, rows: pa.Table | pa.RecordBatchReader) -> pa.RecordBatchReader:
        """The same rows; their names are kept."""

        def batches() -> Iterator[pa.RecordBatch]:
            for batch in rows.to_batches() if isinstance(rows, pa.Table) else rows:
                held = [name for name in NAMES if name in batch.schema.names]
                columns = [
                    batch[name] if name in held else pa.nulls(batch.num_rows, pa.string())
                    for name in NAMES
                ]
                self._arrived.append(pa.RecordBatch.from_arrays(columns, NAMES))
                yield batch

        return pa.RecordBatchReader.from_batches(rows.schema, batches())

    def _insert(self, table: str, rows: pa.Table | pa.RecordBatchReader) -> None:
        self._cursor.register("appended", rows)
        names = ", ".join(f'"{name}"' for name in rows.schema.names)
        self._cursor.execute(f"INSERT INTO {table} ({names}) SELECT {names} FROM appended")
        self._cursor.unregister("appended")

    def query(self, sql: str, params: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Read what this transaction sees, its own rows included; also for UPDATE and DELETE."""
        self.settle()
        result = self._cursor.execute(sql, list(params))
        names = [column[0] for column in result.description or ()]
        return [dict(zip(names, row, strict=True)) for row in result.fetchall()]

    def run(self, sql: str) -> None:
        """Run a statement that answers nothing."""
        self._cursor.execute(sql)

"""Rows as Arrow tables of the lake's column specs."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from everlearn.errors import InputError
from everlearn.lake.columns import FEEDBACK, Kind, TableSpec
from everlearn.lake.schema import arrow_schema


def complete(rows: pa.Table) -> pa.Table:
    """Feedback with every column."""
    schema = arrow_schema(FEEDBACK)
    columns = [
        rows[field.name].cast(field.type)
        if field.name in rows.schema.names
        else pa.nulls(rows.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def to_arrow(spec: TableSpec, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows as an Arrow table of the spec; InputError on an unknown column or a wrong type."""
    unknown = {name for row in rows for name in row} - set(spec.names)
    if unknown:
        raise InputError(f"{spec.name} has no column {', '.join(sorted(unknown))}")
    arrays = []
    for column, field in zip(spec.columns, arrow_schema(spec), strict=True):
        convert = _CONVERT.get(column.kind)
        values = [row.get(column.name) for row in rows]
        if convert is not None:
            values = [None if value is None else convert(value) for value in values]
        try:
            arrays.append(pa.array(values, field.type))
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise InputError(f"{spec.name}.{column.name}: {error}") from error
    return pa.table(arrays, schema=arrow_schema(spec))


def _time(value: Any) -> datetime:
    """A datetime (UTC where it names no zone), or Unix seconds."""
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    return datetime.fromtimestamp(value, UTC)


def _json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


_CONVERT: dict[Kind, Callable[[Any], Any]] = {"time": _time, "json": _json}

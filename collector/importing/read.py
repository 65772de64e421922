"""The rows of a file: JSON lines, one JSON value, Parquet, gzipped or not."""

import gzip
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from everlearn.errors import InputError
from everlearn.tolerant import UNREADABLE, loads, whole

LISTS = ("data", "inferences", "observations", "rows", "traces")
"""Keys of an API's answer under which the rows stand."""
PARQUET_ROWS = 1000
GZIP = b"\x1f\x8b"


class Row(NamedTuple):
    """One row of a file."""

    number: int
    """From 1: of JSON lines the line."""
    content: dict[str, Any] | None
    """None for what is no JSON object."""
    position: int
    """Bytes (or, of Parquet, rows) read so far."""


def size(path: Path) -> int:
    """Of what `Row.position` counts."""
    if is_parquet(path):
        import pyarrow.parquet as pq

        with _readable(path):
            return int(pq.ParquetFile(path).metadata.num_rows)
    return path.stat().st_size


def rows(path: Path) -> Iterator[Row]:
    """Every row in order; InputError when the file as a whole cannot be read."""
    with _readable(path):
        yield from _parquet(path) if is_parquet(path) else _json(path)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (OSError, EOFError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow.parquet as pq

    number = 0
    for batch in pq.ParquetFile(path).iter_batches(batch_size=PARQUET_ROWS):
        for content in batch.to_pylist():
            number += 1
            # Arrow gives every field of a struct; what is null was not there.
            yield Row(number, {k: _bare(v) for k, v in content.items()}, number)


def _bare(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _bare(item) for key, item in value.items() if item is not None}
    return [_bare(item) for item in value] if isinstance(value, list) else value


def _json(path: Path) -> Iterator[Row]:
    with ExitStack() as stack:
        raw = stack.enter_context(path.open("rb"))
        zipped = raw.read(2) == GZIP
        raw.seek(0)
        file = stack.enter_context(gzip.open(raw)) if zipped else raw
        first = file.readline()
        value = _decoded(first)
        if not isinstance(value, dict) or _listed(value):
            yield from _whole(first + file.read(), raw.tell())
            return
        yield Row(1, value, raw.tell())
        for number, line in enumerate(file, 2):
            if line.strip():
                yield Row(number, _object(line), raw.tell())


def _whole(data: bytes, position: int) -> Iterator[Row]:
    """One JSON value: a list, an object that holds one, or a single row."""
    if not data.strip():
        return
    value = _decoded(data)
    found = _listed(value) if isinstance(value, dict) else value
    if isinstance(value, dict) and not found:
        found = [value]
    if not isinstance(found, list):
        # Not one value but lines, the first of which is none.
        for number, line in enumerate(data.splitlines(), 1):
            if line.strip():
                yield Row(number, _object(line), position)
        return
    for number, item in enumerate(found, 1):
        yield Row(number, item if isinstance(item, dict) else None, position)


def _object(line: bytes) -> dict[str, Any] | None:
    found = _decoded(line)
    return found if isinstance(found, dict) else None


def _listed(value: dict[str, Any]) -> list[Any] | None:
    if len(value) > 3:
        return None
    return next((value[key] for key in LISTS if isinstance(value.get(key), list)), None)


def _decoded(data: bytes) -> Any:
    """The value; None for what is no JSON. Logs of Python's hold NaN and half characters, Windows
    puts a mark of the byte order first."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return whole(loads(data))
    except UNREADABLE:
        return None

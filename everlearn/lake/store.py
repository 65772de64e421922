"""The lake seam: read SQL, write in transactions. Tables are those of `columns.py`."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")


class Transaction(Protocol):
    """All or nothing; valid only inside `Lake.commit`."""

    def append(
        self, table: str, rows: "Sequence[Mapping[str, Any]] | pa.Table | pa.RecordBatchReader"
    ) -> None:
        """Add rows, a stream of them read as it is written; missing columns are null, an unknown
        column is an InputError."""
        ...

    def query(self, sql: str, params: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Read what this transaction sees, its own rows included; also for UPDATE and DELETE."""
        ...


class Lake(Protocol):
    """DuckLake on SQLite and local files, or on Postgres and S3: the same code."""

    def read(self, sql: str, params: Sequence[Any] = ()) -> "pa.Table":
        """Run one query; LakeError with the reason when it cannot."""
        ...

    def commit(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` in one transaction; repeated as a whole on a locked catalog or a conflict."""
        ...

    def snapshot_id(self) -> int:
        """The newest lake snapshot: `read` can be frozen with `AT (VERSION => id)`."""
        ...

    def close(self) -> None:
        """Detach."""
        ...

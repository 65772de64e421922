"""The event log seam: records in order per source, positions kept by the reader, nothing else.

Embedded form: the gateways' WAL folders (`collector/wal_source.py`). Distributed form: Kafka
(`collector/kafka_source.py`).
The reader stores positions in the lake, in the transaction of the rows, and seeks to them on start.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec


class Record(msgspec.Struct, frozen=True, gc=False):
    """One event as it was appended.

    `source` and `position` say where to go on reading (`position + 1`); `gateway_id` and `seq`
    are the event's identity, the same on every transport. `error` is set for a record whose bytes
    are damaged: the reader stores it as a dead letter and goes on. `payload` may be a view of what
    was read: two kilobytes less to copy, into memory that was not used before.
    """

    source: str
    position: int
    gateway_id: str
    seq: int
    payload: bytes | memoryview
    error: str | None = None


class EventSource(Protocol):
    """Read side of the event log."""

    def poll(self, max_records: int, max_bytes: int, timeout_seconds: float) -> Sequence[Record]:
        """The next records of the assigned sources, in order per source; empty on timeout."""
        ...

    def seek(self, positions: Mapping[str, int]) -> None:
        """Go on at these positions; a source that is not named starts at its beginning."""
        ...

    def committed(self, positions: Mapping[str, int]) -> None:
        """All before these positions stands in the lake: space may be freed."""
        ...

    def close(self) -> None:
        """Release files and sockets."""
        ...

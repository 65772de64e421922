"""The embedded event log: every worker's WAL folder, read where it is written.

- A position is a sequence number; the source of a worker is `wal/<gateway_id>`.
- A segment is deleted once everything in it stands in the lake and a newer one exists.
- Damaged bytes and lost numbers become one record with `error`; reading goes on after them.
- A folder that carries another gateway's identity is reported and left alone.
"""

import itertools
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from isal.isal_zlib import crc32

from everlearn.errors import CaptureError
from everlearn.log.bus import Record
from everlearn.log.identity import read_identity, worker_folders
from everlearn.log.segments import HEADER, Damage, Entry, entries, segments

log = logging.getLogger(__name__)

POLL_SECONDS = 0.1
"""Between two looks for what is new, 0.2 ms each: most of what an idle collector costs. Batches are
closed further apart."""
SETTLED_SECONDS = 1.0
"""What is no record in the newest segment is awaited so long, then taken as damaged."""
WINDOW_BYTES = 4 * 2**20
UNUSED = bytes(HEADER.size)
"""What stands where the next record of a prepared segment will be."""


class WalSource:
    """Reads all workers' folders under `root`, in turn."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._workers: dict[str, _Worker] = {}
        self._positions: dict[str, int] = {}
        self._refused: set[Path] = set()

    def poll(self, max_records: int, max_bytes: int, timeout_seconds: float) -> Sequence[Record]:
        """The next records of every worker; empty on timeout."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            self._discover()
            found: list[Record] = []
            for worker in self._workers.values():
                if len(found) < max_records and max_bytes > 0:
                    records = worker.read(max_records - len(found), max_bytes)
                    max_bytes -= sum(len(record.payload) for record in records)
                    found += records
            left = deadline - time.monotonic()
            if found or left <= 0:
                return found
            time.sleep(min(POLL_SECONDS, left))

    def seek(self, positions: Mapping[str, int]) -> None:
        """Go on at these sequence numbers."""
        self._positions = dict(positions)
        self._workers = {}

    def committed(self, positions: Mapping[str, int]) -> None:
        """Delete the segments that lie wholly before these positions."""
        for source, position in positions.items():
            free(self._root / source.removeprefix("wal/"), position)

    def close(self) -> None:
        """Nothing is held open between polls."""

    def _discover(self) -> None:
        for folder in worker_folders(self._root):
            source = f"wal/{folder.name}"
            if source in self._workers or folder in self._refused:
                continue
            try:
                gateway_id = read_identity(folder)
            except CaptureError as error:
                log.error("not read: %s", error)
                self._refused.add(folder)
                continue
            self._workers[source] = _Worker(folder, gateway_id, self._positions.get(source, 1))


class _Worker:
    """Reads one folder from sequence number `following` on."""

    def __init__(self, folder: Path, gateway_id: str, following: int) -> None:
        self._folder, self._gateway_id, self._following = folder, gateway_id, following
        self._source = f"wal/{folder.name}"
        self._segment: tuple[int, Path] | None = None
        self._offset = 0

    def read(self, max_records: int, max_bytes: int) -> list[Record]:
        """What is there now, up to the limits, from one segment or the next."""
        while True:
            later = self._later()
            if self._segment is None:
                if not later:
                    return []
                # Begin in the last segment that can hold the number, or in the first one left.
                before = [item for item in later if item[0] <= self._following]
                self._segment, self._offset = (before or later[:1])[-1], 0
                later = self._later()
            records = list(self._records(max_records, max_bytes, growing=not later))
            if records or not later:
                return records
            gap = self._leave(later[0])
            if gap is not None:
                return [gap]

    def _later(self) -> list[tuple[int, Path]]:
        """The segments after the open one; looked at before reading, so that it is final then."""
        first = -1 if self._segment is None else self._segment[0]
        return [item for item in segments(self._folder) if item[0] > first]

    def _records(self, max_records: int, max_bytes: int, *, growing: bool) -> Iterator[Record]:
        assert self._segment is not None
        path = self._segment[1]
        data, _ = _read(path, self._offset, HEADER.size)
        if len(data) < HEADER.size or (growing and data == UNUSED):
            return
        data, _ = _read(path, self._offset, WINDOW_BYTES)
        good, end = self._good(data, max_records, max_bytes)
        if good:
            self._offset += end
            yield from good
            return
        # Only what the quick way could not read comes here: a record longer than the window,
        # damage, a torn tail, old numbers.
        data, changed_at = _read(path, self._offset)
        growing = growing and time.time() - changed_at < SETTLED_SECONDS
        start, taken = self._offset, 0
        for item in entries(data, 0, self._following - 1, growing=growing):
            if taken >= max_records or max_bytes <= 0:
                return
            record = self._entry(item) if isinstance(item, Entry) else None
            if isinstance(item, Damage):
                following = entries(data, item.end, self._following - 1)
                record = self._damage(item, next(following))
            self._offset = start + item.end
            if record is not None:
                taken += 1
                max_bytes -= len(record.payload)
                yield record

    def _good(self, data: bytes, max_records: int, max_bytes: int) -> tuple[list[Record], int]:
        """The records up to the first that is not good and next in order, and where they end.

        `entry_at` in one loop, without its copies: 0.5 us per record of 2 KB instead of 5.
        """
        unpack, header, size = HEADER.unpack_from, HEADER.size, len(data)
        source, gateway_id, following = self._source, self._gateway_id, self._following
        found: list[Record] = []
        view, offset = memoryview(data), 0
        limit = min(size - header, max_bytes)
        while offset <= limit and len(found) < max_records:
            length, crc, seq = unpack(data, offset)
            end = offset + header + length
            if end > size or seq < following or crc32(view[offset + 8 : end]) != crc:
                break
            if seq != following:
                break
            found.append(Record(source, seq, gateway_id, seq, view[offset + header : end]))
            following, offset = seq + 1, end
        self._following = following
        return found, offset

    def _entry(self, entry: Entry) -> Record | None:
        if entry.seq < self._following:
            return None
        self._following = entry.seq + 1
        return Record(self._source, entry.seq, self._gateway_id, entry.seq, entry.payload)

    def _damage(self, damage: Damage, after: Entry | Damage) -> Record | None:
        """A dead letter for the numbers between; none if the bytes were never acknowledged."""
        assert isinstance(after, Entry)
        assert self._segment is not None
        first, last = self._following, after.seq - 1
        if last < first:
            return None
        self._following = after.seq
        reason = (
            f"{len(damage.raw)} damaged bytes in {self._segment[1].name}: "
            f"sequence numbers {first} to {last}"
        )
        return Record(self._source, last, self._gateway_id, first, damage.raw, reason)

    def _leave(self, after: tuple[int, Path]) -> Record | None:
        """Go to the next segment; a dead letter if numbers are missing in between."""
        assert self._segment is not None
        path, first = self._segment[1], self._following
        rest = _read(path, self._offset)[0].rstrip(b"\0")
        self._segment, self._offset = after, 0
        if after[0] <= first:
            return None
        self._following = after[0]
        reason = (
            f"sequence numbers {first} to {after[0] - 1} are not in {path.name}: "
            f"{len(rest)} unreadable bytes at its end"
            if rest
            else f"sequence numbers {first} to {after[0] - 1} are in no segment: a power loss or a "
            "deleted file"
        )
        return Record(
            self._source, after[0] - 1, self._gateway_id, first if rest else 0, rest, reason
        )


def _read(path: Path, offset: int, size: int = -1) -> tuple[bytes, float]:
    """Up to `size` bytes from `offset` on (-1: all) and when the file was last written; none if it
    is gone."""
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            return file.read(size), os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return b"", 0.0


def holding(root: Path, mark: bytes) -> list[Path]:
    """Segments with these bytes in them, whether they were collected or not."""
    found = [path for folder in worker_folders(root) for _, path in segments(folder)]
    return [path for path in found if mark in _read(path, 0)[0]]


def free(folder: Path, position: int) -> None:
    """Delete the segments of which all records lie before `position`, but never the newest."""
    found = segments(folder)
    for (_, path), (following, _) in itertools.pairwise(found):
        if following <= position:
            path.unlink(missing_ok=True)

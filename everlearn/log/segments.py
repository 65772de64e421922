"""WAL segments on disk: the record format, and reading that survives torn and corrupt bytes.

A record is `u32 length, u32 crc32, u64 seq, payload`, big-endian; the crc covers seq and payload.
A segment `<first seq, 20 digits>.wal` holds records in rising order of seq. Only the newest segment
of a folder is ever written to; an older one is final.

- A torn tail yields nothing: it was never acknowledged. Zeros at the end are room not yet used.
- Damaged bytes with records after them yield one `Damage`, then those records.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from isal.isal_zlib import crc32

HEADER = struct.Struct(">IIQ")
SEQ = struct.Struct(">Q")
SUFFIX = ".wal"


class Entry(NamedTuple):
    """One good record; `end` is the offset in bytes where the next one starts."""

    seq: int
    payload: bytes
    end: int


class Damage(NamedTuple):
    """Bytes `start` to `end` of a segment that are no records, with good records after them."""

    start: int
    end: int
    raw: bytes


def pack(seq: int, payload: bytes) -> bytes:
    """The bytes of one record."""
    return head(seq, payload) + payload


def head(seq: int, payload: bytes) -> bytes:
    """What stands before the payload in a record."""
    return HEADER.pack(len(payload), crc32(payload, crc32(SEQ.pack(seq))), seq)


def entry_at(data: bytes, offset: int) -> Entry | None:
    """The record that starts at `offset`, or None if these bytes are none (or not all of it)."""
    start = offset + HEADER.size
    if start > len(data):
        return None
    length, crc, seq = HEADER.unpack_from(data, offset)
    end = start + length
    if end > len(data):
        return None
    payload = data[start:end]
    if crc32(payload, crc32(data[offset + 8 : start])) != crc:
        return None
    return Entry(seq, payload, end)


def entries(
    data: bytes, offset: int, last_seq: int, *, growing: bool = False
) -> Iterator[Entry | Damage]:
    """Every record from `offset` on; `last_seq` is the sequence number before it.

    `growing`: what is no record is still being written, so that nothing after it is looked at.
    """
    while offset < len(data):
        entry = entry_at(data, offset)
        if entry is None:
            resumed = None if growing else _resync(data, _written(data, offset), last_seq)
            if resumed is None:
                return
            yield Damage(offset, resumed, data[offset:resumed])
            offset = resumed
            continue
        yield entry
        offset, last_seq = entry.end, entry.seq


def _written(data: bytes, offset: int) -> int:
    """Where a record after `offset` can start at the earliest: behind zeros, if there are any."""
    zeros = len(data) - offset - len(data[offset:].lstrip(b"\0"))
    return offset + max(1, zeros - HEADER.size)


def _resync(data: bytes, offset: int, last_seq: int) -> int | None:
    """Where the next good record starts: seq must rise, by less than records can fit in.

    A candidate is found by the five high bytes that its seq shares with its neighbours', so that a
    whole damaged segment is searched at memory speed.
    """
    limit = last_seq + 1 + len(data) // HEADER.size
    prefixes = {SEQ.pack(last_seq + 1)[:5], SEQ.pack(limit)[:5]}
    found = [_resync_with(prefix, data, offset, (last_seq, limit)) for prefix in prefixes]
    return min((place for place in found if place is not None), default=None)


def _resync_with(prefix: bytes, data: bytes, offset: int, between: tuple[int, int]) -> int | None:
    place = data.find(prefix, offset + 8)
    while place != -1:
        start = place - 8
        seq = SEQ.unpack_from(data, place)[0] if place + 8 <= len(data) else 0
        if between[0] < seq <= between[1] and entry_at(data, start) is not None:
            return start
        place = data.find(prefix, place + 1)
    return None


def segment_path(folder: Path, first_seq: int) -> Path:
    """The file of the segment that starts with `first_seq`."""
    return folder / f"{first_seq:020d}{SUFFIX}"


def segments(folder: Path) -> list[tuple[int, Path]]:
    """(first seq, file) of every segment, oldest first; empty if the folder is gone."""
    try:
        names = [path for path in folder.iterdir() if path.suffix == SUFFIX]
    except FileNotFoundError:
        return []
    return sorted((int(path.stem), path) for path in names if path.stem.isdigit())


def last_seq(folder: Path) -> int:
    """The highest sequence number that can still be read, 0 if none."""
    for first, path in reversed(segments(folder)):
        found = entries(path.read_bytes(), 0, first - 1)
        good = [item.seq for item in found if isinstance(item, Entry)]
        if good:
            return good[-1]
    return 0

"""The gateway's write-ahead log: what is appended here is never lost by a dying process.

Guarantees:
- `write`: an appended event survives kill -9 of any process; `fsync`: power loss as well, once
  `durable` has returned; `off`: as `write`, but nothing is ever forced to the disk.
- A sequence number is used once, whatever was lost: numbers are reserved on disk in blocks before
  they are used, and a start after a power loss begins at the next block.
- The count of dropped events survives kill -9 on a full disk; a writer starts on a full disk.

One process, one thread, one folder: several workers and several gateways each hold their own.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from everlearn.config import Capture
from everlearn.ids import new_id
from everlearn.log.group_commit import GroupCommit
from everlearn.log.identity import (
    DROPPED,
    NEXT,
    RESERVED,
    SKIPPED,
    Claim,
    Counters,
    boot_id,
    claim,
    repair_counts,
)
from everlearn.log.segments import HEADER, head, last_seq, segment_path, segments

log = logging.getLogger(__name__)

BLOCK = 65_536
"""Sequence numbers reserved by one forced write: a block lasts seconds at full speed."""
RETRY_SECONDS = 0.1
"""How long a full WAL waits before it looks for room again."""
PROBE_BYTES = 64 * 1024
MAX_TOGETHER = 500
"""Events of one write; the kernel takes 1,024 parts."""


@dataclass(frozen=True)
class WalStats:
    """A worker's state of capture, for `/health` and `/metrics`."""

    gateway_id: str
    acknowledged: int
    """Events appended since the folder exists."""
    dropped: int
    """Events lost to a full WAL or disk since the folder exists."""
    skipped: int
    """Sequence numbers left out after a power loss."""
    bytes: int
    """Size of the segments that still stand here."""
    max_bytes: int
    accepting: bool


class WalWriter:
    """Appends events to this worker's folder under `root`."""

    def __init__(self, root: Path, worker: int, capture: Capture) -> None:
        self.gateway_id = f"gw-{new_id('x')[-8:]}-w{worker}"
        self._root, self._worker, self._capture = root, worker, capture
        self._segment_bytes = min(capture.segment_bytes, max(capture.wal_max_bytes // 4, 4096))
        self._limit = capture.wal_max_bytes
        if capture.on_full == "reject":
            # Requests in flight when the limit is met are still written, one segment's worth.
            self._limit += self._segment_bytes
        self._claim: Claim | None = None
        self._counters: Counters | None = None
        self._view: memoryview | list[int] = [0, 1, 1, 0, 0]
        self._next = 1
        self._fd = -1
        self._size = 0
        """Of the open segment."""
        self._older = 0
        """Bytes of the other segments, when last looked."""
        self._room = 0
        """Bytes that may be appended before anything has to be checked again."""
        self._full = False
        self._retry_at = 0.0
        self._commit: GroupCommit | None = None
        if capture.durability == "fsync":
            self._commit = GroupCommit(self._segment_bytes, lambda: (self._next - 1, self._fd))
        self._open()

    @property
    def accepting(self) -> bool:
        """False only when the policy is `reject` and there is no room for more."""
        if self._capture.on_full != "reject":
            return True
        if self._full or self._over:
            self._look_again()
        return not self._full and not self._over

    def append(self, payload: bytes) -> int | None:
        """Write one event; its sequence number, or None if it was dropped (and counted)."""
        return self._write((payload,)) or None

    def append_all(self, payloads: Sequence[bytes]) -> int:
        """Write events with one call to the system; the last one's number, 0 if none was kept.

        Where there is no room for all, each is kept or dropped (and counted) by itself.
        """
        if 0 < len(payloads) <= MAX_TOGETHER:
            last = self._write(payloads)
            if last >= 0:
                return last
        return max((self._write((payload,)) for payload in payloads), default=0)

    def append_whole(self, payloads: Sequence[bytes]) -> int:
        """Write events, all or none of them; the last one's number, 0 if there is no room for all.

        None counts as dropped: whoever sent them is told.
        """
        size = sum(map(len, payloads)) + len(payloads) * HEADER.size
        if size > self._limit or (size > self._room and not self._find_room(size)):
            return 0
        try:
            if self._next + len(payloads) > self._view[RESERVED]:
                self._reserve()
        except OSError as error:
            self._stop(str(error))
            return 0
        return max(self._write(payloads), 0)

    def _write(self, payloads: Sequence[bytes]) -> int:
        """The number of the last of `payloads`; 0 if it was one and was dropped, -1 if they were
        several and there is no room for all."""
        count = len(payloads)
        size = sum(map(len, payloads)) + count * HEADER.size
        if size > self._room or self._next + count > self._view[RESERVED]:
            if count > 1:
                return -1
            if not self._find_room(size):
                self._view[DROPPED] += 1
                return 0
        seq = self._next
        parts: list[bytes] = []
        for payload in payloads:
            parts += head(seq, payload), payload
            seq += 1
        if count > MAX_TOGETHER:
            parts = [b"".join(parts)]
        try:
            written = os.pwritev(self._fd, parts, self._size)
            reason = "the disk took only a part of the record"
        except OSError as error:
            written, reason = -1, str(error)
        if written != size:
            if count > 1:
                return -1
            self._failed(reason)
            return 0
        self._size += size
        self._room -= size
        self._next = self._view[NEXT] = seq
        return seq - 1

    def when_durable(self, seq: int, then: Callable[[], None]) -> None:
        """Call `then` once `seq` is as safe as the config promises: group commit for fsync."""
        if self._commit is None:
            then()
        else:
            self._commit.when(seq, then)

    def release_overdue(self) -> None:
        """To be called now and then: nobody waits for ever for a disk that hangs."""
        if self._commit is not None:
            self._commit.release_overdue()

    async def durable(self, seq: int) -> None:
        """Return once `seq` is as safe as the config promises."""
        done = asyncio.get_running_loop().create_future()
        self.when_durable(seq, lambda: None if done.done() else done.set_result(None))
        await done

    def stats(self) -> WalStats:
        """What this worker has captured and lost."""
        held = self._others() + self._size if self._claim else 0
        return WalStats(
            gateway_id=self.gateway_id,
            acknowledged=self._next - 1 - self._view[SKIPPED],
            dropped=self._view[DROPPED],
            skipped=self._view[SKIPPED],
            bytes=held,
            max_bytes=self._capture.wal_max_bytes,
            accepting=self.accepting,
        )

    def close(self) -> None:
        """Force all to the disk, give the unused sequence numbers back, unlock."""
        if self._counters is None or self._claim is None:
            return
        self._room = 0
        if self._commit is not None:
            self._commit.close(self._fd, self._size)
        elif self._fd >= 0:
            if self._capture.durability != "off":
                os.fsync(self._fd)
            os.close(self._fd)
        self._fd = -1
        self._view[RESERVED] = self._next
        self._view = [0, self._next, self._next, self._view[DROPPED], self._view[SKIPPED]]
        if self._capture.durability != "off":
            self._counters.flush()
        self._counters.close()
        os.close(self._claim.lock)
        self._counters = self._claim = None

    @property
    def _folder(self) -> Path:
        assert self._claim is not None
        return self._claim.folder

    def _open(self) -> bool:
        """Claim a folder and go on after its last number; False on a full disk, retried later."""
        lost = self._view[DROPPED]
        try:
            self._claim = claim(self._root, self._worker, self.gateway_id)
            self._resume(self._claim.folder)
        except OSError as error:
            log.error("capture: no WAL under %s: %s", self._root, error)
            if self._claim is not None:
                os.close(self._claim.lock)
            self._claim, self._full = None, True
            self._retry_at = time.monotonic() + RETRY_SECONDS
            return False
        self._view[DROPPED] += lost
        return True

    def _resume(self, folder: Path) -> None:
        """Set the counters after a clean stop, a kill or a power loss.

        1. The same boot: memory that was written is still there, so `next` is exact, or one behind
           a record whose writer was killed before it could count it.
        2. Another boot: go on where no number was ever used; what lies between is skipped.
        """
        last = last_seq(folder)
        counts = repair_counts(folder, BLOCK, last)
        known = max(counts.next_seq, last + 1)
        clean = counts.reserved == counts.next_seq
        same_boot = counts.boot_id == boot_id()
        start = known if same_boot or clean else max(known, counts.reserved)
        if start > known:
            log.error("%s: power loss; %d sequence numbers skipped", folder.name, start - known)
        self._counters = Counters(folder)
        self._view = self._counters.view
        self._view[SKIPPED] = counts.skipped + start - known
        self._view[NEXT] = start
        self._view[RESERVED] = max(start, counts.reserved if same_boot else start)
        self._counters.boot(boot_id())
        self._next, self.gateway_id, self._full = start, folder.name, False
        if self._commit is not None:
            self._commit.begin(folder)

    @property
    def _over(self) -> bool:
        return self._older + self._size >= self._capture.wal_max_bytes

    def _look_again(self) -> None:
        """Has space been freed since? Only a segment that is not written to can be: leave it."""
        if time.monotonic() < self._retry_at:
            return
        self._retry_at = time.monotonic() + RETRY_SECONDS
        if self._full:
            self._retry_at = 0.0
            self._find_room(1)
        elif self._size > 0:
            self._roll_quietly()
        if self._claim is not None:
            self._older = self._others()

    def _find_room(self, size: int) -> bool:
        """Reserve numbers, start a segment, look for freed space: all that is not every append."""
        if self._full and time.monotonic() < self._retry_at:
            return False
        if self._claim is None and not self._open():
            return False
        try:
            if self._next >= self._view[RESERVED]:
                self._reserve()
            if self._fd < 0 or self._size >= self._segment_bytes:
                self._roll()
            if self._full:
                self._probe()
        except OSError as error:
            return self._stop(str(error))
        self._older = self._others()
        left = self._limit - self._older - self._size
        if left < size:
            # Only a segment that is not written to can be freed: leave this one.
            if self._size > 0:
                self._roll_quietly()
            return self._stop(f"{self._older + self._size} of {self._limit} bytes in use")
        self._full = False
        self._room = min(left, max(self._segment_bytes - self._size, size))
        return True

    def _reserve(self) -> None:
        assert self._counters is not None
        self._view[RESERVED] = self._next + BLOCK
        if self._capture.durability != "off":
            self._counters.flush()

    def _roll(self) -> None:
        """Start a segment; what stands in a file of that name was never acknowledged."""
        path = segment_path(self._folder, self._next)
        if self._commit is not None:
            fresh = self._commit.open_segment(path)
        else:
            fresh = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        if self._fd >= 0:
            self._leave(self._fd)
        self._fd, self._size, self._room = fresh, 0, 0

    def _roll_quietly(self) -> None:
        try:
            self._roll()
        except OSError as error:
            log.warning("%s: no new segment: %s", self.gateway_id, error)

    def _leave(self, handle: int) -> None:
        if self._commit is not None:
            self._commit.leave(handle, self._size)
        else:
            os.close(handle)

    def _others(self) -> int:
        mine = segments(self._folder)
        if self._fd >= 0:
            del mine[-1:]
        return sum(_size(path) for _, path in mine)

    def _probe(self) -> None:
        """Raise OSError unless the disk takes bytes again."""
        probe = os.open(self._folder / "probe", os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            written = os.write(probe, b"\0" * PROBE_BYTES)
            os.ftruncate(probe, 0)
        finally:
            os.close(probe)
        if written != PROBE_BYTES:
            raise OSError("the disk is full")

    def _stop(self, reason: str) -> bool:
        if not self._full:
            log.error(
                "%s: capture is full (%s): %s", self.gateway_id, self._capture.on_full, reason
            )
        self._full, self._room = True, 0
        self._retry_at = time.monotonic() + RETRY_SECONDS
        return False

    def _failed(self, reason: str) -> None:
        """A write failed: cut off what part of it stands in the segment, count it as dropped."""
        try:
            os.ftruncate(self._fd, self._size)
        except OSError:
            # The reader passes over these bytes, they are no record; write elsewhere.
            self._size = self._segment_bytes
        self._stop(reason)
        self._view[DROPPED] += 1


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0

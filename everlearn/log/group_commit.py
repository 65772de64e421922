"""Forces the write-ahead log to the disk: once for all that wait, in a thread of its own.

While one force runs, the next one's events gather. Segments are files of zeros that stand on the
disk before they are written to: forcing them then changes no metadata, so no journal is written.
"""

import asyncio
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

log = logging.getLogger(__name__)

SPARE = "spare"
ZEROS = bytes(2**20)
JOIN_SECONDS = 30.0
AS_IT_IS = -1
FORCE_SECONDS = 5.0
"""How long an answer waits for a disk that hangs."""


class Job(NamedTuple):
    """One force."""

    loop: asyncio.AbstractEventLoop
    seq: int
    """Everything up to here stands in `handle` or in `left`."""
    handle: int
    """The open segment, -1 if there is none."""
    left: list[tuple[int, int]]
    """Handles to force and close, each cut to a size in bytes."""


class GroupCommit:
    """The forcing side of one `WalWriter`, used from one event loop at a time."""

    def __init__(self, segment_bytes: int, newest: Callable[[], tuple[int, int]]) -> None:
        """`newest` gives the last number appended and the handle of the open segment."""
        self._segment_bytes = segment_bytes
        self._newest = newest
        self._left: list[tuple[int, int]] = []
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()
        self._forced = 0
        self._busy = False
        self._started = 0.0
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._preparing: threading.Thread | None = None

    def begin(self, folder: Path) -> None:
        """Make the first spare segment: at the start, so that no request waits for it."""
        prepare(folder / SPARE, self._segment_bytes)

    def open_segment(self, path: Path) -> int:
        """A handle of a new segment: the spare file under its name, an empty one if there is none.

        Raises OSError when the disk takes neither.
        """
        spare = path.parent / SPARE
        try:
            spare.rename(path)
            handle = os.open(path, os.O_WRONLY)
        except FileNotFoundError:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        self._left.append((os.open(path.parent, os.O_RDONLY), AS_IT_IS))
        if self._preparing is None or not self._preparing.is_alive():
            self._preparing = threading.Thread(
                target=prepare, args=(spare, self._segment_bytes), daemon=True
            )
            self._preparing.start()
        return handle

    def leave(self, handle: int, size: int) -> None:
        """Force and close a segment that nothing more is written to; it holds `size` bytes."""
        self._left.append((handle, size))

    def when(self, seq: int, then: Callable[[], None]) -> None:
        """Call `then` once `seq` stands on the disk."""
        if seq <= self._forced:
            then()
            return
        self._waiting.append((seq, then))
        if not self._busy:
            self._start()

    def release_overdue(self) -> None:
        """Let go who has waited for too long: a disk that hangs must not hold up users."""
        if self._waiting and time.monotonic() - self._started > FORCE_SECONDS:
            log.critical("capture: the disk hangs; answers go out that a power loss would lose")
            waiting, self._waiting = self._waiting, deque()
            for _, then in waiting:
                then()

    def close(self, handle: int, size: int) -> None:
        """Force the rest and end the threads."""
        if self._preparing is not None:
            self._preparing.join(JOIN_SECONDS)
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join(JOIN_SECONDS)
        left, self._left = self._left, []
        _settle([*left, (handle, size)] if handle >= 0 else left)

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="wal-force", daemon=True)
            self._thread.start()
        self._busy, self._started = True, time.monotonic()
        left, self._left = self._left, []
        self._jobs.put(Job(asyncio.get_running_loop(), *self._newest(), left))

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if job.handle >= 0:
                _force(job.handle)
            _settle(job.left)
            try:
                job.loop.call_soon_threadsafe(self._done, job.seq)
            except RuntimeError:  # the loop has ended, and with it whoever waited
                self._busy = False

    def _done(self, seq: int) -> None:
        self._forced, self._busy = seq, False
        while self._waiting and self._waiting[0][0] <= seq:
            self._waiting.popleft()[1]()
        if self._waiting and not self._busy:
            self._start()


def prepare(path: Path, size: int) -> None:
    """Make a file of `size` zeros that stands on the disk, if the disk takes it."""
    fresh = path.with_suffix(".new")
    try:
        if path.exists() and path.stat().st_size == size:
            return
        with fresh.open("wb", buffering=0) as file:
            for start in range(0, size, len(ZEROS)):
                file.write(ZEROS[: size - start])
            os.fsync(file.fileno())
        if fresh.stat().st_size == size:
            fresh.rename(path)
        else:
            fresh.unlink()
    except OSError as error:
        log.warning("%s: no spare segment: %s", path, error)
        fresh.unlink(missing_ok=True)


def _force(handle: int) -> None:
    """A disk that refuses is said loudly, and the answer still goes out."""
    try:
        os.fdatasync(handle)
    except OSError as error:
        log.critical("capture: fsync failed, a power loss now would lose events: %s", error)


def _settle(handles: list[tuple[int, int]]) -> None:
    for handle, size in handles:
        try:
            if size != AS_IT_IS:
                os.ftruncate(handle, size)
            os.fsync(handle)
        except OSError as error:
            log.critical("capture: fsync failed, a power loss now would lose events: %s", error)
        finally:
            os.close(handle)

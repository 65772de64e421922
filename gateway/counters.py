"""Where the limits of keys are counted: in this process, or in memory that the workers of one
gateway share.

- Shared counts are exact: every check and its count are one step under a lock of the kernel, so a
  limit holds for the gateway as it would for one worker.
- A worker that is killed leaves nothing behind: the kernel gives its lock back, and `forget` clears
  its requests in flight. What it had spent of a minute stays spent.
- A check waits for another worker's check, a few microseconds, and for nothing else.
"""

import contextlib
import fcntl
import logging
import mmap
import os
from pathlib import Path
from typing import Protocol, TypeAlias

log = logging.getLogger(__name__)

Cells: TypeAlias = "list[float] | memoryview[float]"
"""Of one key: requests spent and when, tokens spent and when, requests in flight per worker."""

REQUESTS, TOKENS, IN_FLIGHT = 0, 2, 4
"""Where in the cells each begins."""
SLOTS = 65_536
"""Keys with limits that one gateway can share in its life; the file is sparse."""
NAME_BYTES = 16
LIMITS_FILE = "limits"
"""In the folder that the workers of one gateway share."""


class Counters(Protocol):
    """Counts by key."""

    lock: contextlib.AbstractContextManager[None]
    """Held while cells are read and written."""
    worker: int
    """Whose cell of the requests in flight is ours."""

    def cells(self, sha256: str) -> Cells:
        """The cells of a key, all zero at first."""
        ...


class LocalCounters:
    """The counts of a gateway of one process."""

    def __init__(self) -> None:
        self.lock: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        self.worker = 0

    def cells(self, sha256: str) -> Cells:
        """New ones: whoever asks keeps them."""
        return [0.0] * (IN_FLIGHT + 1)


class SharedCounters:
    """The counts of a gateway of several processes, in one file that all of them map."""

    def __init__(self, path: Path, workers: int, worker: int = 0, slots: int = SLOTS) -> None:
        self.worker = worker
        self._slot_bytes = NAME_BYTES + 8 * (IN_FLIGHT + workers)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self._slots = slots
        os.ftruncate(handle, self._slots * self._slot_bytes)
        self._memory = mmap.mmap(handle, self._slots * self._slot_bytes)
        self.lock: contextlib.AbstractContextManager[None] = FileLock(handle)

    def cells(self, sha256: str) -> Cells:
        """Those every worker has for that key; once all slots are taken, this worker's own."""
        name = bytes.fromhex(sha256)[:NAME_BYTES]
        first = int.from_bytes(name[:4])
        with self.lock:
            for step in range(self._slots):
                at = (first + step) % self._slots * self._slot_bytes
                if self._name(at) in (name, bytes(NAME_BYTES)):
                    self._memory[at : at + NAME_BYTES] = name
                    return self._cells(at)
        log.error("%d keys with limits: those of one more are each worker's own", self._slots)
        return [0.0] * (IN_FLIGHT + self.worker + 1)

    def forget(self, worker: int) -> None:
        """A worker has ended: none of its requests is in flight."""
        for slot in range(self._slots):
            at = slot * self._slot_bytes
            if any(self._name(at)):
                self._cells(at)[IN_FLIGHT + worker] = 0.0

    def _name(self, at: int) -> bytes:
        return self._memory[at : at + NAME_BYTES]

    def _cells(self, at: int) -> Cells:
        whole = memoryview(self._memory)[at + NAME_BYTES : at + self._slot_bytes]
        return whole.cast("d")


class FileLock:
    """Mutual exclusion between processes that ends with its holder, however that ends."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def __enter__(self) -> None:
        fcntl.flock(self._handle, fcntl.LOCK_EX)

    def __exit__(self, *error: object) -> None:
        fcntl.flock(self._handle, fcntl.LOCK_UN)

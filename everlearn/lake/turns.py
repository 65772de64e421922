"""Reads and flushes of one lake take turns, over all processes of a machine.

- Reads run side by side; a flush runs alone.
- A flush that waits goes before the reads that come after it: many short reads do not starve it.
- A process that is killed leaves nothing behind: the kernel drops its locks.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PAUSE_SECONDS = 0.002


class Turns:
    """A lock of readers and one writer, on two files beside the catalog."""

    def __init__(self, catalog: Path) -> None:
        self._door, self._room = Path(f"{catalog}.door"), Path(f"{catalog}.room")

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Together with other reads: through the door, into the room, which may be full."""
        with ExitStack() as room:
            with ExitStack() as door:
                _take(door, self._door, fcntl.LOCK_SH)
                _take(room, self._room, fcntl.LOCK_SH)
            yield

    @contextmanager
    def alone(self, patience_seconds: float) -> Iterator[bool]:
        """Alone; False when the reads before it took longer than it had patience."""
        deadline = time.monotonic() + patience_seconds
        with ExitStack() as locks:
            got = all(_try(locks, path, deadline) for path in (self._door, self._room))
            if not got:
                # The next reads need not wait for one that has given up.
                locks.close()
            yield got


def _take(stack: ExitStack, path: Path, kind: int) -> None:
    fcntl.flock(_open(stack, path), kind)


def _try(stack: ExitStack, path: Path, deadline: float) -> bool:
    handle = _open(stack, path)
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
        time.sleep(PAUSE_SECONDS)


def _open(stack: ExitStack, path: Path) -> int:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CREAT, 0o666)
    except OSError:
        # A folder that may only be read: somebody who may write has made the file, or nobody
        # flushes here.
        handle = os.open(path if path.exists() else path.parent, os.O_RDONLY)
    stack.callback(os.close, handle)
    return handle

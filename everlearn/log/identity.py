"""Who a gateway worker is: its WAL folder, locked while it lives, and counters that outlive it.

A folder `<root>/gw-<random>-w<worker>/` holds `identity` (JSON, checked against the folder's name),
`lock` (held by flock) and `counters` (mapped into memory: they survive kill -9 of the process even
on a full disk, because no new block is needed). One that is `sealed`, as in a back-up, is read and
never written to.
"""

import fcntl
import json
import logging
import mmap
import os
import secrets
import shutil
import struct
from pathlib import Path
from typing import NamedTuple

from everlearn.errors import CaptureError

log = logging.getLogger(__name__)

SEALED = "sealed"
"""A file of this name says so: numbers may have been used that the copied counters do not know."""
_MAGIC = b"EVLWAL01"
_LAYOUT = struct.Struct("=8sQQQQ40s")
"""Magic, next seq, reserved seq, dropped, skipped, boot id."""
_SIZE = 4096
NEXT, RESERVED, DROPPED, SKIPPED = 1, 2, 3, 4


class Counts(NamedTuple):
    """What a worker's counters say; readable by any process while the worker runs."""

    next_seq: int
    """The first sequence number not yet used."""
    reserved: int
    """No number from here on was ever used: the restart point after a power loss."""
    dropped: int
    """Events not written because the WAL or the disk was full."""
    skipped: int
    """Numbers never used, or lost with a power loss (under `write` at most so many events)."""
    boot_id: str

    @property
    def acknowledged(self) -> int:
        """Events in the log, now or before they were freed."""
        return self.next_seq - 1 - self.skipped


def boot_id() -> str:
    """Changes with every start of the machine; a writer of another boot may have lost pages."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return secrets.token_hex(16)


def read_counts(folder: Path) -> Counts:
    """The counters of a worker; CaptureError if they are missing or damaged."""
    try:
        raw = (folder / "counters").read_bytes()
    except OSError as error:
        raise CaptureError(f"{folder}/counters: {error.strerror}") from error
    if len(raw) < _LAYOUT.size or raw[:8] != _MAGIC:
        raise CaptureError(f"{folder}/counters: damaged")
    _, following, reserved, dropped, skipped, boot = _LAYOUT.unpack_from(raw)
    return Counts(
        following, reserved, dropped, skipped, boot.rstrip(b"\0").decode(errors="replace")
    )


def _write_counts(path: Path, counts: Counts) -> None:
    *numbers, boot = counts
    raw = _LAYOUT.pack(_MAGIC, *numbers, boot.encode()[:40])
    with path.open("wb") as file:
        file.write(raw.ljust(_SIZE, b"\0"))
        file.flush()
        os.fsync(file.fileno())


class Counters:
    """The mapped counters, writable: `counters.view[NEXT] = 7` is a store to memory (40 ns)."""

    def __init__(self, folder: Path) -> None:
        with (folder / "counters").open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _SIZE)
        self.view = memoryview(self._map).cast("Q")

    def flush(self) -> None:
        """Force them to the disk."""
        self._map.flush()

    def boot(self, boot: str) -> None:
        """Note which boot of the machine writes now."""
        start = _LAYOUT.size - 40
        self._map[start : start + 40] = boot.encode()[:40].ljust(40, b"\0")

    def close(self) -> None:
        """Unmap."""
        self.view.release()
        self._map.close()


class Claim(NamedTuple):
    """A locked folder: closing `lock` gives it free."""

    folder: Path
    lock: int


def claim(root: Path, worker: int, new_id: str) -> Claim:
    """Lock the first free folder of this worker index, or make one named `new_id`."""
    for folder in sorted(root.glob(f"gw-*-w{worker}")):
        lock = None if (folder / SEALED).exists() else _lock(folder)
        if lock is not None:
            return Claim(folder, lock)
    return _create(root, new_id)


def read_identity(folder: Path) -> str:
    """The gateway id of a folder; CaptureError unless the folder carries that name."""
    try:
        name = json.loads((folder / "identity").read_bytes())["gateway_id"]
    except OSError as error:
        raise CaptureError(f"{folder}/identity: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CaptureError(f"{folder}/identity: damaged") from error
    if name != folder.name:
        raise CaptureError(
            f"{folder} belongs to gateway {name}: a copied WAL is not written or read; "
            f"rename the folder to {name} where that gateway's own folder is not"
        )
    return folder.name


def worker_folders(root: Path) -> list[Path]:
    """Every worker's folder, whether it is written to or not."""
    return sorted(path for path in root.glob("gw-*") if path.is_dir())


def _lock(folder: Path) -> int | None:
    try:
        read_identity(folder)
    except CaptureError as error:
        log.error("%s", error)
        return None
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _create(root: Path, new_id: str) -> Claim:
    """Make the folder under a temporary name, then rename: readers see it whole or not at all."""
    root.mkdir(parents=True, exist_ok=True)
    temporary = root / f".new-{new_id}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        (temporary / "identity").write_text(json.dumps({"gateway_id": new_id}))
        _write_counts(temporary / "counters", Counts(1, 1, 0, 0, boot_id()))
        lock = os.open(temporary / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    temporary.rename(root / new_id)
    fsync_folder(root)
    return Claim(root / new_id, lock)


def repair_counts(folder: Path, block: int, last: int) -> Counts:
    """The counters of a claimed folder; damaged ones are made anew, a block above the last record.

    Nothing then says how many numbers were used after `last`, so none of the next `block` is.
    """
    try:
        return read_counts(folder)
    except CaptureError as error:
        log.error("%s: made anew, %d sequence numbers are skipped", error, block)
    fresh = Counts(last + 1 + block, last + 1 + block, 0, block, boot_id())
    _write_counts(folder / "counters", fresh)
    return fresh


def fsync_folder(folder: Path) -> None:
    """Make renames and new files in it durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

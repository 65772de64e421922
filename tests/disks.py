"""A disk of a given size, for tests that fill it."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """A tmpfs mounted at `folder`; needs root or CAP_SYS_ADMIN, as a container for tests has."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={kilobytes}k"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, leave_bytes: int = 0) -> Path:
    """Write until nothing fits; give `leave_bytes` back."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        size = 65536
        while size >= 1:
            try:
                if file.write(b"\1" * size) < size:
                    size //= 2
            except OSError:
                size //= 2
        if leave_bytes:
            file.truncate(max(0, file.tell() - leave_bytes))
    return filler


DiskMaker = Callable[[int], Path]


@contextmanager
def disk_maker(folder: Path) -> Iterator[DiskMaker]:
    """Makes small disks under `folder` and unmounts all of them at the end."""
    with ExitStack() as stack:
        yield lambda kilobytes: stack.enter_context(small_disk(folder / "disk", kilobytes))

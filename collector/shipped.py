"""How far each worker's log has left this machine, noted where a kill cannot lose it.

A shipper that dies sends again what it had not noted. The lake drops what stands twice in one
partition, because the transactions that store a partition exclude each other; so what may have been
sent goes again to the partition it went to before, also when the topic has grown meanwhile.
"""

import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from everlearn.errors import CaptureError
from everlearn.log.identity import read_counts, worker_folders

log = logging.getLogger(__name__)

FILE = "shipped"
"""In a worker's folder: the first number not acknowledged, and the partitions counted for it."""


class Shipped:
    """The notes of every worker folder under `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.positions = shipped_positions(root)
        """Per source, the first number that Kafka has not acknowledged."""
        self._partitions = {source: count for source, (_, count) in _read(root).items() if count}
        self._sent: dict[str, int] = {}
        """Per source: from this number on, none was ever sent."""

    def spread(self, sources: Iterable[str], partitions: int) -> dict[str, int]:
        """Over how many partitions to spread the records of each source, the topic having so many.

        A source takes up new partitions once all that was sent of it is acknowledged.
        """
        return {source: self._spread(source, partitions) for source in sources}

    def sending(self, reached: Mapping[str, int]) -> None:
        """All before these numbers may be in Kafka from now on, acknowledged or not."""
        for source, number in reached.items():
            self._sent[source] = max(number, self._sent.get(source, 0))

    def acknowledged(self, reached: Mapping[str, int]) -> None:
        """Note that all before these numbers is in Kafka; on a full disk that is noted later."""
        self.positions |= reached
        for source in reached:
            self._note(source)

    def _spread(self, source: str, partitions: int) -> int:
        if source not in self._sent:
            self._sent[source] = self._numbers(source)
        before = self._partitions.get(source)
        if before == partitions:
            return partitions
        if before and before < partitions and self.positions.get(source, 1) < self._sent[source]:
            return before
        self._partitions[source] = partitions
        if not self._note(source) and before and before < partitions:
            self._partitions[source] = before
        return self._partitions[source]

    def _numbers(self, source: str) -> int:
        """The first number that no shipper before us can have sent."""
        try:
            return read_counts(_folder(self._root, source)).next_seq
        except CaptureError as error:
            log.warning("%s: it may all have been sent before", error)
            return 2**62

    def _note(self, source: str) -> bool:
        folder = _folder(self._root, source)
        position, temporary = self.positions.get(source, 1), folder / f".{FILE}"
        try:
            temporary.write_text(f"{position} {self._partitions.get(source, 0)}")
            os.replace(temporary, folder / FILE)
        except OSError as error:
            log.warning("%s: shipped up to %d, not noted: %s", folder.name, position, error)
            return False
        return True


def shipped_positions(root: Path) -> dict[str, int]:
    """Per source, the first sequence number that Kafka has not acknowledged."""
    return {source: position for source, (position, _) in _read(root).items()}


def _read(root: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for folder in worker_folders(root):
        try:
            position, *partitions = map(int, (folder / FILE).read_text().split())
        except (OSError, ValueError):
            continue
        found[f"wal/{folder.name}"] = position, partitions[0] if partitions else 0
    return found


def _folder(root: Path, source: str) -> Path:
    return root / source.removeprefix("wal/")

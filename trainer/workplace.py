"""Where a run keeps what it has done, so that the next process goes on from there.

`<data_dir>/training/<task>/` has the checkpoints of each method, its adapter once it is trained,
and `METHOD.json`: what it was given, or why it was left out. The folder goes when the run ends.
"""

import hashlib
import json
import shutil
from importlib.metadata import version
from typing import Any

from everlearn.config import Service
from everlearn.errors import CheckpointError
from everlearn.task import Task, base_model_path
from trainer.snapshot import Snapshot


class Workplace:
    """The folder of a task's run."""

    def __init__(self, service: Service, task: Task) -> None:
        self.folder = service.data_path / "training" / task.task

    def open(self, *, fresh: bool) -> None:
        """Make it, empty if `fresh`; CheckpointError where it cannot be written."""
        if fresh:
            self.close()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"{self.folder}: {error.strerror}") from error

    def close(self) -> None:
        """Nothing of it is needed any more."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def read(self, method: str) -> dict[str, Any] | None:
        """What is known of a method that is done."""
        try:
            return dict(json.loads((self.folder / f"{method}.json").read_text()))
        except (OSError, ValueError):
            return None

    def write(self, method: str, done: dict[str, Any]) -> None:
        """Keep what became of a method."""
        part = self.folder / f".{method}.json"
        try:
            part.write_text(json.dumps(done))
            part.rename(self.folder / f"{method}.json")
        except OSError as error:
            raise CheckpointError(
                f"{part}: {error.strerror}; free space there and start again: the run goes on"
            ) from error


def identity(service: Service, task: Task, snapshot: Snapshot, champion: str) -> str:
    """Hash of all that a run's bytes depend on: only a run of the same identity is taken up."""
    rows = sorted(f"{row.split} {row.row_hash}" for row in snapshot.rows if row.split != "dropped")
    packages = [version(name) for name in ("everlearn", "torch", "transformers", "trl", "peft")]
    content = [
        task.model_dump_json(exclude={"folder"}),
        base_model_path(service, task),
        champion,
        rows,
        packages,
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()

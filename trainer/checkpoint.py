"""Checkpoints of a training: adapter, optimiser, schedule and random state, by step.

- A checkpoint is handed over by rename, so half of one is none; the last `KEPT` stay.
- What cannot be written costs the checkpoint, never the run.
- A run that goes on from one ends with the bytes of an undisturbed run: the order of all rows is
  laid out as one epoch, and every random draw comes from a state that is kept.
"""

import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

KEPT = 2
MARK = "checkpoint.json"
"""Written last: the sizes of the files."""
_NAME = re.compile(r"checkpoint-(\d+)$")


class Checkpoints:
    """Of one method, in `folder`; at most one in `seconds`, 0: after every step."""

    def __init__(self, folder: Path, seconds: float, report: Callable[[str], None]) -> None:
        self.folder, self._seconds, self._report = folder, seconds, report
        self._last = time.monotonic()

    def latest(self) -> Path | None:
        """The newest whole one."""
        return next((path for path in reversed(self._found()) if _whole(path)), None)

    def clear(self) -> None:
        """Forget all: they are of no use."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def due(self) -> bool:
        """Whether it is time for one."""
        return time.monotonic() - self._last >= self._seconds

    def keep(self, trainer: Any) -> None:
        """Write one of the trainer's step; say so when that fails."""
        step = int(trainer.state.global_step)
        part = self.folder / f".part-{step}"
        try:
            self._write(trainer, part)
            part.rename(self.folder / f"checkpoint-{step}")
            for old in self._found()[:-KEPT]:
                shutil.rmtree(old)
        # torch and safetensors report a full disk as errors of their own, not as OSError.
        except Exception as error:
            shutil.rmtree(part, ignore_errors=True)
            before = self.latest()
            since = "the beginning" if before is None else before.name
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            self._report(
                f"no checkpoint at step {step}: {self.folder}: {reason}; the run goes on, and "
                f"would be taken up at {since}"
            )
        self._last = time.monotonic()

    def _write(self, trainer: Any, part: Path) -> None:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        model = trainer.accelerator.unwrap_model(trainer.model)
        model.save_pretrained(str(part), selected_adapters=["default"])
        trainer._save_optimizer_and_scheduler(str(part))
        trainer._save_rng_state(str(part))
        trainer.state.save_to_json(str(part / "trainer_state.json"))
        sizes = {file.name: file.stat().st_size for file in part.iterdir()}
        (part / MARK).write_text(json.dumps(sizes))

    def _found(self) -> list[Path]:
        """Oldest first."""
        if not self.folder.is_dir():
            return []
        named = [(_NAME.match(path.name), path) for path in self.folder.iterdir()]
        return [path for _, path in sorted((int(name[1]), path) for name, path in named if name)]


def _whole(path: Path) -> bool:
    """Whether every file has the size that it was written with."""
    try:
        sizes = json.loads((path / MARK).read_text())
        return all((path / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def keeping(checkpoints: Checkpoints, trainer: Any, check: Callable[[], None]) -> Any:
    """A callback that keeps checkpoints when they are due, and asks after each step whether the
    run may go on: `check` raises if not."""
    from transformers import TrainerCallback

    class Keep(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            check()
            if checkpoints.due() and state.global_step < state.max_steps:
                checkpoints.keep(trainer)

    return Keep()

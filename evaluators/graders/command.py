"""`execution` with `language: command`: any program says how good the answer is.

- Exit code 0: 1, or the number it printed last. One of `fails`: 0, with its last words.
- Any other end - another exit code, a signal, a limit, no number - is unscored: the tool failed,
  not the answer. With `runs_answer` limits and signals are the answer's doing, and 0.
- Every answer has a process, a folder and a container of its own: nothing of it stays.
"""

import hashlib
import math
import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evaluators.definition import content_hash
from evaluators.graders.base import Base
from evaluators.graders.unit_tests import block_of
from evaluators.sandbox import ChildDied, ChildSilent, Spec, sandbox
from evaluators.types import Item, Sample, Score
from everlearn.config import Sandbox as Rules
from everlearn.errors import ConfigError, GraderError
from everlearn.graders import CommandExecution

START_SECONDS = 5.0
WAIT_SECONDS = 5.0
"""Of wall time beyond five times `timeout_seconds`: for what waits, not for what is slow."""
PATH = "/usr/local/bin:/usr/bin:/bin"
_SLOW = (signal.SIGPROF, signal.SIGXCPU)
_SHELL = 128
"""A shell exits with this and the signal that ended what it ran."""


class CommandGrader(Base[CommandExecution]):
    """Sends the rendered files to a child that runs the tool once."""

    runs_code = True

    def __init__(self, spec: CommandExecution, folder: Path, rules: Rules) -> None:
        super().__init__(spec)
        self._input = self.template(spec.input, "input")
        self._files = {name: self.template(t, f"files.{name}") for name, t in spec.files.items()}
        self._command, reads = tool(spec, folder)
        self.version = content_hash(spec, *map(_content, reads))
        settings = {
            "memory_mb": spec.max_memory_mb, "cpu_seconds": spec.timeout_seconds,
            "processes": spec.max_processes, "starts_programs": True,
        }  # fmt: skip
        inside = {str(path): str(path) for path in reads}
        self._child = Spec(
            "command", settings, inside, rules, scratch_mb=spec.max_memory_mb, calls=1
        )

    async def __call__(self, sample: Sample, item: Item) -> Score:
        spec = self.spec
        text = self._input.render(sample, item)
        text = block_of(text) if spec.fenced else text
        files = {name: each.render(sample, item) for name, each in self._files.items()}
        if spec.input_file is not None:
            files[spec.input_file] = text
        wall_seconds = 5 * spec.timeout_seconds + WAIT_SECONDS
        request = {
            "command": self._command, "input": text, "files": files, "wall_seconds": wall_seconds,
        }  # fmt: skip
        try:
            reply = await sandbox().ask(self._child, request, wall_seconds + START_SECONDS)
        except (ChildDied, ChildSilent) as error:
            if error.phase is None:
                raise
            return self._broken("ended the process that ran it")
        if "failed" in reply:
            raise GraderError(f"{spec.command[0]} could not be started: {reply['failed']}")
        return self._judged(reply["status"], reply)

    def _judged(self, status: int | None, said: Mapping[str, Any]) -> Score:
        spec, words = self.spec, _last_line(said["errors"]) or _last_line(said["output"])
        if status is None:
            return self._broken(f"waited longer than {5 * spec.timeout_seconds + WAIT_SECONDS:g} s")
        if status in spec.fails:
            return self.passed(0.0, reason=f"exit code {status}: {words}"[:400])
        number = -status if status < 0 else status - _SHELL
        if number in _SLOW:
            return self._broken(f"took more than {spec.timeout_seconds:g} s of CPU time")
        if number > 0:
            return self._broken(f"ended by signal {number}")
        if status:
            raise GraderError(
                f"{spec.command[0]} ended with exit code {status}, which `fails` does not name: "
                f"{words}"[:400]
            )
        if spec.result == "exit_code":
            return self.passed(
                1.0, reason=f"exit code 0: {words}"[:400] if words else "exit code 0"
            )
        return self.passed(self._number(_last_line(said["output"])))

    def _number(self, line: str) -> float:
        low, high = self.spec.range
        try:
            value = float(line)
        except ValueError:
            raise GraderError(f"the last line is no number: {line!r:.100}") from None
        if not (math.isfinite(value) and low <= value <= high):
            raise GraderError(f"the number is {value:g}, not within {low:g} to {high:g}")
        return value

    def _broken(self, how: str) -> Score:
        """What the tool did not get through: its own doing, or that of the answer it runs."""
        if not self.spec.runs_answer:
            raise GraderError(f"{self.spec.command[0]} {how}")
        return self.passed(0.0, reason=f"the answer {how}")


def tool(spec: CommandExecution, folder: Path) -> tuple[tuple[str, ...], tuple[Path, ...]]:
    """The command with its program's own path, and what beside /usr it can read; ConfigError with
    the key when one of them is not there."""
    where = f"grader {spec.name}: command"
    name = spec.command[0]
    found = str((folder / name).resolve()) if "/" in name else shutil.which(name, path=PATH)
    if found is None or not os.access(found, os.X_OK) or os.path.isdir(found):
        raise ConfigError(
            f"{where} = {name!r}: no program; an absolute path, one relative to the task file "
            f"(with a slash) or a name in {PATH}"
        )
    reads = [(folder / each).resolve() for each in spec.reads]
    for path in reads:
        if not path.exists():
            raise ConfigError(f"grader {spec.name}: reads = {str(path)!r}: no such file or folder")
        if path == Path("/"):
            raise ConfigError(f"grader {spec.name}: reads = '/': name what it needs of it")
    if not found.startswith("/usr/"):
        reads.insert(0, Path(found))
    return (found, *spec.command[1:]), tuple(reads)


def _content(path: Path) -> str:
    """What is part of the verdict: another program is another grader."""
    if not path.is_file():
        return str(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else ""

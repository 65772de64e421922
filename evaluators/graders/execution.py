"""`execution`: runs the answer's SQL in a child process; what goes wrong there is no zero of ours.

- 0: the answer is not a single SELECT, does not run, uses too much CPU time, memory or rows, or
  gives other rows than the reference.
- Unscored: no reference yet, a reference that does not run, a database that cannot be opened, a
  child that died or starved. CPU time, not the clock, decides what is too slow: a busy machine
  fails nobody.
"""

import signal
from pathlib import Path

from evaluators.graders.base import Base
from evaluators.sandbox import ChildDied, sandbox
from evaluators.template import Unknown
from evaluators.types import Item, Sample, Score
from everlearn.errors import ConfigError, GraderError
from everlearn.task import Execution

_MAGIC = b"DUCK"
_MAGIC_AT = 8


class ExecutionGrader(Base[Execution]):
    """Sends the rendered SQL to a child that has the database open."""

    def __init__(self, spec: Execution, folder: Path) -> None:
        super().__init__(spec)
        self._input = self.template(spec.input, "input")
        self._reference = (
            None if spec.reference is None else self.template(spec.reference, "reference")
        )
        self._database = (folder / spec.database).resolve()
        _check_database(self._database, spec.name)

    async def __call__(self, sample: Sample, item: Item) -> Score:
        spec = self.spec
        request = {
            "sql": self._input.render(sample, item),
            "reference": None if self._reference is None else self._reference.render(sample, item),
            "ordered": spec.ordered,
            "max_rows": spec.max_rows,
            "cpu_seconds": spec.timeout_seconds,
        }
        try:
            wall = 5 * spec.timeout_seconds + 5
            reply = await sandbox().ask("sql", self._settings(), request, wall)
        except ChildDied as error:
            if error.signal_number == signal.SIGPROF:
                reason = f"the answer took more than {spec.timeout_seconds:g} s of CPU time"
                return Score(0.0, reason=reason)
            if error.signal_number == signal.SIGVTALRM:
                raise Unknown(
                    f"the reference took more than {spec.timeout_seconds:g} s of CPU time"
                ) from error
            raise
        if "value" not in reply:
            raise Unknown(str(reply["reason"]))
        return Score(reply["value"], reason=reply["reason"])

    def _settings(self) -> dict[str, object]:
        """What a child is started with; a database that was replaced gets new children."""
        try:
            stat = self._database.stat()
        except OSError as error:
            raise GraderError(f"{self._database}: {error.strerror}") from error
        return {
            "database": str(self._database),
            "stamp": [stat.st_ino, stat.st_mtime_ns, stat.st_size],
            "max_memory_mb": self.spec.max_memory_mb,
        }


def _check_database(path: Path, name: str) -> None:
    try:
        with path.open("rb") as file:
            magic = file.read(_MAGIC_AT + len(_MAGIC))[_MAGIC_AT:]
    except OSError as error:
        raise ConfigError(f"grader {name}: database = {str(path)!r}: {error.strerror}") from error
    if magic != _MAGIC:
        raise ConfigError(f"grader {name}: database = {str(path)!r}: not a DuckDB file")

"""`execution`: runs the answer's SQL in a child process; what goes wrong there is no zero of ours.

- 0: the answer is not a single SELECT, does not run, uses too much CPU time, memory or rows, waits
  past the wall limit, ends the process, or gives other rows than the reference.
- Unscored: no reference yet, a reference that does not run, a database that cannot be opened, a
  child that was killed. CPU time, not the clock, decides what is too slow; the wall limit is far
  beyond it and meets only what sleeps.
"""

import signal
from pathlib import Path

from evaluators.graders.base import Base
from evaluators.sandbox import CRASHES, ChildDied, ChildSilent, Spec, sandbox
from evaluators.template import Unknown
from evaluators.types import Item, Sample, Score
from everlearn.config import Sandbox as Rules
from everlearn.errors import ConfigError, GraderError
from everlearn.graders import Execution

LIBRARIES_MB = 1024
"""Address space that libraries and DuckDB need beyond `max_memory_mb`."""
_MAGIC = b"DUCK"
_MAGIC_AT = 8


class ExecutionGrader(Base[Execution]):
    """Sends the rendered SQL to a child that has the database open."""

    runs_code = True

    def __init__(self, spec: Execution, folder: Path, rules: Rules) -> None:
        super().__init__(spec)
        self._rules = rules
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
            reply = await sandbox().ask(self._child(), request, 5 * spec.timeout_seconds + 5)
        except (ChildDied, ChildSilent) as error:
            return self._ended(error)
        if "value" not in reply:
            raise Unknown(str(reply["reason"]))
        return Score(reply["value"], reason=reply["reason"])

    def _ended(self, error: ChildDied | ChildSilent) -> Score:
        """Whose doing it was that the child gave no answer."""
        if isinstance(error, ChildSilent):
            reason = f"waited longer than {5 * self.spec.timeout_seconds + 5:g} s"
        elif error.signal_number in (signal.SIGPROF, signal.SIGVTALRM):
            reason = f"took more than {self.spec.timeout_seconds:g} s of CPU time"
        elif error.signal_number in CRASHES:
            reason = f"ended the process: {signal.Signals(error.signal_number).name}"
        else:
            raise error
        if error.phase == "answer":
            return Score(0.0, reason=f"the answer {reason}")
        if error.phase == "reference":
            raise Unknown(f"the reference {reason}") from error
        raise error

    def _child(self) -> Spec:
        """What a child is started as; a database that was replaced gets new children."""
        try:
            stat = self._database.stat()
        except OSError as error:
            raise GraderError(f"{self._database}: {error.strerror}") from error
        inside = f"/database/{self._database.name}"
        files = {inside: str(self._database)}
        log = self._database.with_name(self._database.name + ".wal")
        if log.exists():
            files[f"{inside}.wal"] = str(log)
        isolated = self._rules.isolation != "none"
        settings = {
            "database": inside if isolated else str(self._database),
            "stamp": [stat.st_ino, stat.st_mtime_ns, stat.st_size],
            "max_memory_mb": self.spec.max_memory_mb,
            "address_space_mb": self.spec.max_memory_mb + LIBRARIES_MB,
        }
        return Spec("sql", settings, files, self._rules)


def _check_database(path: Path, name: str) -> None:
    try:
        with path.open("rb") as file:
            magic = file.read(_MAGIC_AT + len(_MAGIC))[_MAGIC_AT:]
    except OSError as error:
        raise ConfigError(f"grader {name}: database = {str(path)!r}: {error.strerror}") from error
    if magic != _MAGIC:
        raise ConfigError(f"grader {name}: database = {str(path)!r}: not a DuckDB file")

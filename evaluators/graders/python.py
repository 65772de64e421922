"""`python`: the task author's `grade(sample, item)`, run in a child process."""

import ast
import signal
from dataclasses import asdict

from evaluators.graders.base import Base
from evaluators.sandbox import ChildDied, sandbox
from evaluators.types import Item, Sample, Score
from everlearn.errors import ConfigError, GraderError
from everlearn.task import PythonGrader as PythonSpec


class PythonGrader(Base[PythonSpec]):
    """Compiled here, run there; a grader that raises or is slow leaves the answer unscored."""

    def __init__(self, spec: PythonSpec) -> None:
        super().__init__(spec)
        _check_source(spec)
        self.needs_reference = "reference" in spec.source
        self.needs_feedback = any(
            name in spec.source for name in ("thumbs", "feedback", "correction")
        )

    async def __call__(self, sample: Sample, item: Item) -> Score:
        seconds = self.spec.timeout_seconds
        request = {"sample": asdict(sample), "item": dict(item), "cpu_seconds": seconds}
        try:
            reply = await sandbox().ask(
                "python", {"source": self.spec.source}, request, 2 * seconds + 5
            )
        except ChildDied as error:
            if error.signal_number == signal.SIGPROF:
                raise GraderError(f"grade took more than {seconds:g} s of CPU time") from error
            raise
        if "value" not in reply:
            raise GraderError(str(reply["error"]))
        return Score(reply["value"])


def _check_source(spec: PythonSpec) -> None:
    try:
        tree = ast.parse(spec.source)
        compile(tree, "grader.py", "exec")
    except (SyntaxError, ValueError) as error:
        raise ConfigError(f"grader {spec.name}: source does not compile: {error}") from error
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    if "grade" not in defined:
        raise ConfigError(f"grader {spec.name}: source defines no function grade(sample, item)")

"""`python`: the task author's `grade(sample, item)`, run in a child process."""

import ast
from dataclasses import asdict

from evaluators.graders.base import Base
from evaluators.sandbox import Spec, sandbox
from evaluators.types import Item, Sample, Score
from everlearn.config import Sandbox as Rules
from everlearn.errors import ConfigError, GraderError
from everlearn.graders import PythonGrader as PythonSpec

MEMORY_MB = 2048
MAX_SOURCE_BYTES = 256 * 1024
START_SECONDS = 5.0
"""Beyond the wall time, for a machine that is busy."""


class PythonGrader(Base[PythonSpec]):
    """Compiled here, run there; a grader that raises or is slow leaves the answer unscored."""

    runs_code = True

    def __init__(self, spec: PythonSpec, rules: Rules) -> None:
        super().__init__(spec)
        _check_source(spec)
        settings = {"source": spec.source, "address_space_mb": MEMORY_MB}
        self._child = Spec("python", settings, rules=rules)
        self.needs_reference = "reference" in spec.source
        self.needs_feedback = any(
            name in spec.source for name in ("thumbs", "feedback", "correction")
        )

    async def __call__(self, sample: Sample, item: Item) -> Score:
        seconds = self.spec.timeout_seconds
        wall_seconds = 2 * seconds + 2
        request = {
            "sample": {**asdict(sample), "output_json": sample.output_json}, "item": dict(item),
            "cpu_seconds": seconds, "wall_seconds": wall_seconds,
        }  # fmt: skip
        reply = await sandbox().ask(self._child, request, wall_seconds + START_SECONDS)
        if "value" not in reply:
            raise GraderError(str(reply.get("error")))
        return self.passed(reply["value"])


def _check_source(spec: PythonSpec) -> None:
    if len(spec.source.encode(errors="replace")) > MAX_SOURCE_BYTES:
        raise ConfigError(f"grader {spec.name}: source is longer than {MAX_SOURCE_BYTES} bytes")
    try:
        tree = ast.parse(spec.source)
        compile(tree, "grader.py", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(f"grader {spec.name}: source does not compile: {error}") from error
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    if "grade" not in defined:
        raise ConfigError(f"grader {spec.name}: source defines no function grade(sample, item)")

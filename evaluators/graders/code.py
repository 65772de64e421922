"""`execution` with `language: python`: the answer's code against unit tests, with partial credit.

- 0 or part: code that does not compile, raises, is too slow or fails tests; the reason names the
  first one. Unscored: no tests for the item, tests that do not compile or whose imports fail.
- With `no_op` everything runs again with the answer's functions doing nothing: when the same tests
  pass, they prove nothing about the answer, and it gets nothing for them.
"""

from collections.abc import Mapping
from typing import Any

from evaluators.graders.base import Base
from evaluators.graders.unit_tests import Tests, code_of, failure, passes, take_apart
from evaluators.sandbox import CRASHES, LIMIT_SIGNALS, ChildDied, Spec, sandbox
from evaluators.types import Item, Sample, Score
from everlearn.config import Sandbox as Rules
from everlearn.errors import ConfigError, GraderError
from everlearn.graders import PythonExecution

LIBRARIES_MB = 512
"""Address space that the interpreter and its libraries need beyond `max_memory_mb`."""
START_SECONDS = 5.0
_NOTHING = Tests((), (), ())


class CodeGrader(Base[PythonExecution]):
    """Sends the answer's code and its tests to a child; judges here what came of it."""

    runs_code = True

    def __init__(self, spec: PythonExecution, rules: Rules) -> None:
        super().__init__(spec)
        if spec.format_credit + spec.compiles_credit > 1:
            raise ConfigError(
                f"grader {spec.name}: format_credit + compiles_credit = "
                f"{spec.format_credit + spec.compiles_credit:g}: at most 1 together"
            )
        self._input = self.template(spec.input, "input")
        self._tests = None if spec.tests is None else self.template(spec.tests, "tests")
        self._where = f"grader {spec.name}: tests"
        if spec.tests is not None and self._tests is not None and not self._tests.names:
            take_apart(spec.tests, self._where)
        settings = {"address_space_mb": spec.max_memory_mb + LIBRARIES_MB}
        self._child = Spec("code", settings, rules=rules)

    async def __call__(self, sample: Sample, item: Item) -> Score:
        code, formatted = code_of(self._input.render(sample, item))
        tests = self._tests_of(sample, item)
        ran = await self._run(code, tests, no_op=False)
        if "tests_error" in ran:
            raise GraderError(f"the tests do not run: {ran['tests_error']!s:.300}")
        results = _results(ran, tests)
        passed = [passes(test, each) for test, each in zip(tests.tests, results, strict=True)]
        reason = str(ran.get("error") or failure(tests.tests, results))[:400]
        if any(passed) and self.spec.no_op:
            again = _results(await self._run(code, tests, no_op=True), tests)
            if passed == [passes(t, each) for t, each in zip(tests.tests, again, strict=True)]:
                passed, reason = [], "the same tests pass when its functions do nothing"
        share = sum(passed) / len(results) if results else float(not ran.get("error"))
        compiles = ran.get("compiled") is True
        parts = {
            "format": float(compiles if formatted is None else formatted),
            "compiles": float(compiles), "tests": share,
        }  # fmt: skip
        count = f"{sum(passed)} of {len(results)} tests pass" if results else "run"
        return self._score(parts, f"{count}: {reason}" if reason else count)

    def _score(self, parts: Mapping[str, float], reason: str) -> Score:
        shares = self.spec.format_credit, self.spec.compiles_credit
        value = shares[0] * parts["format"] + shares[1] * parts["compiles"]
        value += (1 - sum(shares)) * parts["tests"]
        return self.passed(min(1.0, value), reason=reason, sub_scores=parts)

    def _tests_of(self, sample: Sample, item: Item) -> Tests:
        if self._tests is None:
            return _NOTHING
        try:
            return take_apart(self._tests.render(sample, item), self._where)
        except ConfigError as error:
            raise GraderError(str(error)) from error

    async def _run(self, code: str, tests: Tests, *, no_op: bool) -> Mapping[str, Any]:
        """What the child tells; whatever ended the answer is an `error` of the answer's."""
        wall_seconds = 5 * self.spec.timeout_seconds + 5
        request = {
            "code": code, "no_op": no_op, "before": tests.before, "after": tests.after,
            "tests": [{"source": test.source, "is_value": test.is_value} for test in tests.tests],
            "cpu_seconds": self.spec.timeout_seconds, "wall_seconds": wall_seconds,
        }  # fmt: skip
        try:
            reply = await sandbox().ask(self._child, request, wall_seconds + START_SECONDS)
        except ChildDied as error:
            if error.signal_number not in (*LIMIT_SIGNALS, *CRASHES):
                raise
            return {"error": f"ended the process by signal {error.signal_number}"}
        if "ended" in reply:
            return {"compiled": None, "error": str(reply["ended"])}
        ran = reply.get("ran")
        return ran if isinstance(ran, dict) else {"error": "gave a reply that is none"}


def _results(ran: Mapping[str, Any], tests: Tests) -> list[Any]:
    """One result for each test, of a process in which anything may have run."""
    results = ran.get("results")
    if isinstance(results, list) and len(results) == len(tests.tests):
        return results
    return [None] * len(tests.tests)

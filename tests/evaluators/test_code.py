"""execution of Python: compiled, run and tested in the sandbox; nothing for doing nothing."""

import statistics
import time
from typing import Any

import pytest

from evaluators.graders.unit_tests import code_of, take_apart
from evaluators.sandbox import sandbox
from evaluators.types import Score
from everlearn.errors import ConfigError
from tests.evaluators.graders import make_grader, verdict

pytestmark = pytest.mark.anyio

RIGHT = "def double(x):\n    return 2 * x\n"
TESTS = """
import math

def test_of_a_negative():
    assert math.isclose(double(-1.5), -3)

assert double(2) == 4
assert [0, 2] == [double(x) for x in range(2)]
double("ab")
"""


@pytest.fixture(autouse=True, scope="module")
def _children_end() -> object:
    yield
    sandbox().close()


async def graded(answer: str, tests: str | None = TESTS, **fields: Any) -> Score:
    grader = make_grader(type="execution", language="python", tests=tests, **fields)
    return await verdict(grader, answer)


async def test_the_share_of_tests_that_pass_is_the_score() -> None:
    right = await graded(RIGHT)
    assert (right.value, right.reason, right.error) == (1.0, "4 of 4 tests pass", None)
    part = await graded("def double(x):\n    return x + 2 if x else 0\n")
    assert part.value == 0.25
    assert (part.reason or "").startswith("1 of 4 tests pass: test_of_a_negative(): AssertionError")
    wrong = await graded("def double(x):\n    return 5\n", "assert double(2) == 4")
    assert (wrong.value, wrong.reason) == (0.0, "0 of 1 tests pass: double(2): gave 5")


@pytest.mark.parametrize(
    ("answer", "value", "parts"),
    [
        (f"```python\n{RIGHT}```", 1.0, (1, 1, 1)),
        (f"Here you are:\n```py\n{RIGHT}```\nIt doubles.", 1.0, (1, 1, 1)),
        (f"<think>```python\nno```</think>```python\n{RIGHT}```", 1.0, (1, 1, 1)),
        (RIGHT, 1.0, (1, 1, 1)),
        (f"```python\n{RIGHT}```\n```python\nprint(1)\n```", 0.9, (0, 1, 1)),
        ("```python\ndef double(x): return 0\n```", 0.3, (1, 1, 0)),
        ("```python\ndef double(x) return 0\n```", 0.1, (1, 0, 0)),
        ("It is two times x.", 0.0, (0, 0, 0)),
        ("", 0.2 + 0.1, (1, 1, 0)),
    ],
)
async def test_format_and_compiling_earn_their_credit(
    answer: str, value: float, parts: tuple[int, ...]
) -> None:
    found = await graded(answer, "assert double(3) == 6", format_credit=0.1, compiles_credit=0.2)
    assert found.value == pytest.approx(value)
    assert tuple(found.sub_scores.values()) == parts


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("while True: pass", "more than 0.3 s of CPU time"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("import os; os._exit(0)", "ended with status 0"),
        ("import os; os.kill(os.getpid(), 9)", "is not allowed here"),
        ("import socket; socket.socket()", "is not allowed here"),
        ("open('/tmp/everlearn-answer', 'w')", "is not allowed here"),
        ("import subprocess; subprocess.run(['id'])", "is not allowed here"),
        ("x = bytearray(8 * 2**30)", "MemoryError"),
        ("def f(): f()\nf()", "RecursionError"),
        ("x = " + "(" * 500, "SyntaxError"),
        ("x = " + "-" * 100_000 + "1", ""),
        ("import ctypes; ctypes.string_at(0)", "0 of 1 tests pass"),
    ],
)
async def test_code_that_goes_wrong_gets_nothing_and_says_how(body: str, reason: str) -> None:
    found = await graded(f"{body}\n", "assert double(2) == 4", timeout_seconds=0.3)
    assert (found.value, found.error) == (0.0, None)
    assert reason in (found.reason or "")


FORGERIES = [
    "class Same:\n    def __eq__(self, other): return True\ndef double(x): return Same()",
    "class Same(int):\n    def __eq__(self, other): return True\ndef double(x): return Same()",
    "class Four(int):\n    def __repr__(self): return '4'\ndef double(x): return Four()",
    "import builtins\nbuiltins.eval = lambda *a: True\ndef double(x): return None",
    "import builtins\nbuiltins.repr = lambda v: '[4]'\ndef double(x): return [0]",
    "import os, json\nos.write(3, json.dumps({'compiled': True, 'results': [{'passed': True}]})"
    ".encode())\nos._exit(0)",
    "import os\ndef double(x):\n"
    '    os.write(3, b\'{"results": [{"value": "5"}]}\')\n    os._exit(0)',
]


@pytest.mark.parametrize("answer", FORGERIES)
async def test_what_a_value_should_be_is_not_where_the_answer_runs(answer: str) -> None:
    found = await graded(answer, "assert double(2) == 4")
    assert (found.value, found.error) == (0.0, None)


async def test_tests_that_pass_when_the_answer_does_nothing_are_worth_nothing() -> None:
    weak = "def test_it_runs():\n    run([1, 2])\n\nassert run(None) == None\n"
    answer = "def run(rows):\n    return None\n"
    assert (await graded(answer, weak)).value == 1.0
    found = await graded(answer, weak, no_op=True)
    assert (found.value, found.error) == (0.0, None)
    assert "the same tests pass when its functions do nothing" in (found.reason or "")
    assert (await graded(RIGHT, no_op=True)).value == 1.0
    method = "class Box:\n    def __init__(self): self.n = 1\n    def get(self): return self.n\n"
    assert (await graded(method, "assert Box().get() == 1", no_op=True)).value == 1.0


@pytest.mark.parametrize(
    ("tests", "error"),
    [
        ("import nothing_of_the_kind\nassert double(2) == 4", "the tests do not run: ModuleNot"),
        ("{{ item.metadata.tests }}", "tests: does not compile"),
    ],
)
async def test_tests_that_are_broken_blame_no_answer(tests: str, error: str) -> None:
    grader = make_grader(type="execution", language="python", tests=tests)
    found = await verdict(grader, RIGHT, metadata={"tests": "assert ("})
    assert found.value is None
    assert error in (found.error or "")


async def test_tests_of_the_item_are_its_own_and_none_is_unscored() -> None:
    grader = make_grader(type="execution", language="python", tests="{{ item.metadata.tests }}")
    assert (await verdict(grader, RIGHT, metadata={"tests": "assert double(1) == 2"})).value == 1.0
    found = await verdict(grader, RIGHT, metadata={})
    assert (found.value, found.error) == (None, None)
    assert found.reason


@pytest.mark.parametrize(("answer", "value"), [("print(1)", 1.0), ("print(", 0.0), ("1/0", 0.0)])
async def test_without_tests_it_has_to_run(answer: str, value: float) -> None:
    assert (await graded(answer, None)).value == value


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"tests": "assert ("}, "does not compile"),
        ({"tests": "x = 1"}, "no test"),
        ({"format_credit": 0.6, "compiles_credit": 0.6}, "at most 1 together"),
    ],
)
async def test_a_definition_that_cannot_work_is_refused(
    fields: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        make_grader(type="execution", language="python", **fields)


async def test_one_answer_leaves_nothing_to_the_next() -> None:
    grader = make_grader(type="execution", language="python", tests="assert double(2) == 4")
    await verdict(grader, "import builtins\nbuiltins.double = lambda x: 4\ndouble = double")
    assert (await verdict(grader, "x = 1")).value == 0.0


async def test_a_trivial_answer_takes_milliseconds() -> None:
    grader = make_grader(type="execution", language="python", tests="assert double(2) == 4")
    await verdict(grader, RIGHT)
    times = []
    for _ in range(30):
        started = time.perf_counter()
        assert (await verdict(grader, RIGHT)).value == 1.0
        times.append(time.perf_counter() - started)
    print(f"p50 {statistics.median(times) * 1000:.2f} ms")
    assert min(times) < 0.01


def test_a_test_file_is_taken_apart() -> None:
    found = take_apart(
        "'''Doc.'''\nimport math\nN = 3\ndef check(f):\n    assert f(1)\n" + TESTS, "x"
    )
    assert [test.source for test in found.tests if test.is_value] == [
        "double(2)", "[double(x) for x in range(2)]"
    ]  # fmt: skip
    assert found.after == ("N = 3",)
    assert len(found.before) == 4


def test_code_is_the_first_block() -> None:
    assert code_of("a\n```python\nx = 1\n```\nb") == ("x = 1\n", True)
    assert code_of("```sql\nSELECT 1\n```\n```py\nx = 1\n```") == ("x = 1\n", False)
    assert code_of("```sql\nSELECT 1\n```")[1] is False
    assert code_of("x = 1") == ("x = 1", None)

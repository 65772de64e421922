"""python graders: compiled here, run in a child; what they do wrong is no score."""

import pytest

from evaluators.sandbox import sandbox
from everlearn.errors import ConfigError
from tests.evaluators.graders import make_grader, verdict

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _children_end() -> object:
    yield
    sandbox().close()


async def grade(body: str, timeout_seconds: float = 1.0) -> tuple[float | None, str]:
    source = f"import math\ndef grade(sample, item):\n    {body}\n"
    grader = make_grader(type="python", source=source, timeout_seconds=timeout_seconds)
    found = await verdict(grader, "one two", reference="two", metadata={"n": 2})
    return found.value, found.error or ""


@pytest.mark.parametrize(
    ("body", "value"),
    [
        ("return 1.0", 1.0),
        ("return item['reference'] in sample['output_text']", 1.0),
        ("return len(sample['output_text'].split()) / item['metadata']['n']", 1.0),
        ("print('noise on stdout'); return 0", 0.0),
    ],
)
async def test_a_grader_gives_its_number(body: str, value: float) -> None:
    assert await grade(body) == (value, "")


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("return 1/0", "ZeroDivisionError"),
        ("return None", "grade returned None"),
        ("return 'good'", "grade returned 'good'"),
        ("return math.nan", "not a finite number"),
        ("return math.inf", "not a finite number"),
        ("return item['nothing']", "KeyError"),
        ("open('/tmp/everlearn-grader', 'w')", "PermissionError"),
        ("import socket; socket.socket()", "PermissionError"),
        ("import os; os.system('true')", "PermissionError"),
        ("return len(bytearray(8 * 2**30))", "MemoryError"),
        ("raise SystemExit(3)", "ended with status"),
        ("import os; os._exit(3)", "ended with status 3"),
    ],
)
async def test_a_grader_that_fails_leaves_the_answer_unscored(body: str, error: str) -> None:
    value, said = await grade(body)
    assert value is None
    assert error in said


async def test_a_grader_that_does_not_end_is_ended() -> None:
    value, said = await grade("\n    while True: pass", timeout_seconds=0.3)
    assert value is None
    assert "more than 0.3 s of CPU time" in said


@pytest.mark.parametrize(
    ("source", "reason"),
    [("def grade(sample, item) return 1", "does not compile"), ("x = 1", "no function grade")],
)
async def test_a_source_that_is_no_grader_does_not_compile(source: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        make_grader(type="python", source=source)

"""An answer's code out of its text, and a test file taken apart into single tests. Pure.

`assert f(2) == 4`, with a literal on one side, is taken as an expression and its value: the value
stays here, and what the expression gave is compared here, where nothing of an answer runs.
"""

import ast
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from everlearn.errors import ConfigError

_FENCE = re.compile(
    r"^[ \t]*```[ \t]*(\w*)[^\n]*\n(.*?)^[ \t]*```[ \t]*$", re.DOTALL | re.MULTILINE
)
_THOUGHT = "</think>"
_DEFINES = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
MAX_SOURCE_BYTES = 64 * 1024
MAX_VALUE_CHARS = 8000


class Test(NamedTuple):
    """One test: an expression with the value it should have, or a statement that should pass."""

    source: str
    is_value: bool = False
    expected: Any = None


class Tests(NamedTuple):
    """A test file in its parts."""

    before: tuple[str, ...]
    """Imports and definitions: need no answer."""
    after: tuple[str, ...]
    """Other preparation: runs once the answer is there."""
    tests: tuple[Test, ...]


def code_of(text: str) -> tuple[str, bool | None]:
    """The code of an answer, and whether it is the only block; None: there is no block, so the
    format is right when all of it compiles."""
    spoken = text.rpartition(_THOUGHT)[2] if text.lstrip().startswith("<think>") else text
    blocks = _FENCE.findall(spoken)
    python = [body for language, body in blocks if language.casefold() in ("", "py", "python")]
    if not python:
        return spoken, False if blocks else None
    return python[0], len(blocks) == 1


def block_of(text: str) -> str:
    """The first fenced block of an answer in any language, without one what it says."""
    spoken = text.rpartition(_THOUGHT)[2] if text.lstrip().startswith("<think>") else text
    found = _FENCE.search(spoken)
    return found[2] if found else spoken


def take_apart(source: str, where: str) -> Tests:
    """The tests of a file; ConfigError when it does not compile or has none."""
    if len(source.encode(errors="replace")) > MAX_SOURCE_BYTES:
        raise ConfigError(f"{where}: longer than {MAX_SOURCE_BYTES} bytes")
    try:
        before, after, tests = _sorted(ast.parse(source).body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(f"{where}: does not compile: {error}") from error
    if not tests:
        raise ConfigError(f"{where}: no test: an assert, a call or a function test_...")
    return Tests(tuple(before), tuple(after), tuple(tests))


def passes(test: Test, result: Any) -> bool:
    """Whether what the child told of a test is a pass; whatever it told."""
    if not isinstance(result, dict):
        return False
    if not test.is_value:
        return result.get("passed") is True
    try:
        text = str(result["value"])
        return len(text) <= MAX_VALUE_CHARS and bool(ast.literal_eval(text) == test.expected)
    except (KeyError, ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return False


def failure(tests: Sequence[Test], results: Sequence[Any]) -> str:
    """The first test that does not pass, and how."""
    for test, result in zip(tests, results, strict=True):
        if not passes(test, result):
            told = result if isinstance(result, dict) else {}
            how = told.get("error") or f"gave {told.get('value')!s:.80}"
            return f"{test.source[:80]}: {how!s:.200}"
    return ""


def _sorted(body: Sequence[ast.stmt]) -> tuple[list[str], list[str], list[Test]]:
    before: list[str] = []
    after: list[str] = []
    tests: list[Test] = []
    for node in body:
        text = ast.unparse(node)
        if isinstance(node, _DEFINES):
            before.append(text)
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
                tests.append(Test(f"{node.name}()"))
        elif isinstance(node, ast.Assert):
            tests.append(_value(node) or Test(text))
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            tests.append(Test(text))
        elif not isinstance(node, ast.Expr):
            after.append(text)
    return before, after, tests


def _value(node: ast.Assert) -> Test | None:
    """`assert X == LITERAL`, either way round."""
    test = node.test
    if not (
        isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq)
    ):
        return None
    left, right = test.left, test.comparators[0]
    for asked, told in ((left, right), (right, left)):
        try:
            return Test(ast.unparse(asked), True, ast.literal_eval(told))
        except (ValueError, TypeError, RecursionError):
            continue
    return None

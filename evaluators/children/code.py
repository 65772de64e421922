"""Runs an answer's Python code and its tests, in a process of their own for every answer.

1. What the tests import and define. Raises: the tests are to blame, not the answer.
2. The answer; with `no_op` every function in it then does nothing.
3. The rest of the tests' preparation, then each test: an expression, whose value is told as text,
   or a statement, which passes when it does not raise.

What a value should be is never here: an answer finds nothing to copy in its process.
"""

import sys
from collections.abc import Callable, Mapping
from functools import partial
from types import FunctionType
from typing import Any

from evaluators.children import apart
from evaluators.children.protocol import Forbid, Handler, Note, Reply, serve
from evaluators.children.python import audit

MAX_VALUE_CHARS = 8000
_PLAIN = (int, float, complex, str, bytes, bool, type(None), list, tuple, dict, set)


def prepare(settings: dict[str, Any], forbid: Forbid) -> Handler:
    """Nothing is shared by answers but the interpreter."""

    def handle(request: dict[str, Any], note: Note) -> Reply:
        try:
            reply = apart.run(
                lambda: _run(request), forbid,
                cpu_seconds=request["cpu_seconds"], wall_seconds=request["wall_seconds"],
            )  # fmt: skip
        except apart.Ended as ended:
            return {"ended": str(ended)}
        return {"ran": reply}

    return handle


def _run(request: Mapping[str, Any]) -> Reply:
    sys.addaudithook(audit)
    tests: dict[str, Any] = {"__name__": "tests"}
    for statement in request["before"]:
        error = _raised(partial(_execute, statement, tests))
        if error is not None:
            return {"tests_error": error}
    try:
        code = compile(request["code"], "answer.py", "exec")
    except BaseException as raised:
        return {"compiled": False, "error": _told(raised)}
    answer: dict[str, Any] = {"__name__": "answer"}
    error = _raised(lambda: exec(code, answer))
    if error is not None:
        return {"compiled": True, "error": error}
    if request["no_op"]:
        _silence(answer)
    for name, value in answer.items():
        tests.setdefault(name, value)
    for statement in request["after"]:
        error = _raised(partial(_execute, statement, tests))
        if error is not None:
            return {"compiled": True, "error": error}
    return {"compiled": True, "results": [_result(each, tests) for each in request["tests"]]}


def _result(test: Mapping[str, Any], names: dict[str, Any]) -> Reply:
    """Of an expression its value as text, of a statement that it passed, or what was raised."""
    if not test["is_value"]:
        error = _raised(partial(_execute, test["source"], names))
        return {"passed": True} if error is None else {"error": error}
    try:
        value = eval(compile(test["source"], "tests.py", "eval"), names)
        if not _is_plain(value):
            return {"error": f"gave a {type(value).__name__:.60}, which cannot be compared"}
        text = repr(value)
    except BaseException as raised:
        return {"error": _told(raised)}
    if len(text) > MAX_VALUE_CHARS:
        return {"error": f"gave a value of more than {MAX_VALUE_CHARS} characters"}
    return {"value": text}


def _is_plain(value: Any) -> bool:
    """Python's own types and no subclass of them, which may compare as it likes."""
    if type(value) not in _PLAIN:
        return False
    if isinstance(value, dict):
        return all(_is_plain(each) for pair in value.items() for each in pair)
    if isinstance(value, list | tuple | set):
        return all(map(_is_plain, value))
    return True


def _silence(names: dict[str, Any]) -> None:
    """Every function of the answer, and every method, does nothing from here on."""

    def nothing(*arguments: Any, **named: Any) -> None:
        return None

    for name, value in list(names.items()):
        if isinstance(value, FunctionType):
            names[name] = nothing
        elif isinstance(value, type) and value.__module__ == "answer":
            for method, body in list(vars(value).items()):
                if isinstance(body, FunctionType | staticmethod | classmethod | property):
                    setattr(value, method, nothing)


def _execute(text: str, names: dict[str, Any]) -> None:
    exec(compile(text, "tests.py", "exec"), names)


def _raised(work: Callable[[], Any]) -> str | None:
    """What it raised, whatever that is: an answer that exits has not passed."""
    try:
        work()
    except BaseException as error:
        return _told(error)
    return None


def _told(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:300]
    except BaseException:
        return "an error that cannot be told"


def main() -> None:
    """Entry point of the child."""
    serve(prepare)

"""Runs the `grade(sample, item)` of a python grader; what it raises is told, not raised.

Every answer is graded in a process of its own, which runs the source anew: what grading one
answer leaves behind reaches no other. What the source imports is imported once, before.

The audit hook keeps honest code from files, network and processes with a plain message. It is no
wall against an attacker: that are the isolation and the filter of system calls.
"""

import ast
import importlib
import math
import sys
from types import CodeType
from typing import Any

from evaluators.children import apart
from evaluators.children.protocol import Forbid, Handler, Note, Reply, serve

_FORBIDDEN = ("socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn",
              "os.spawn", "os.kill", "os.remove", "os.rename", "shutil.")  # fmt: skip


def prepare(settings: dict[str, Any], forbid: Forbid) -> Handler:
    """Compile the source; each request runs it."""
    code = compile(settings["source"], "grader.py", "exec")
    _import(settings["source"])

    def handle(request: dict[str, Any], note: Note) -> Reply:
        try:
            reply = apart.run(
                lambda: _graded(code, request), forbid,
                cpu_seconds=request["cpu_seconds"], wall_seconds=request["wall_seconds"],
            )  # fmt: skip
        except apart.Ended as ended:
            return {"error": f"grade {ended}"}
        return _checked(reply)

    return handle


def _import(source: str) -> None:
    """What it imports at its top, so that no answer pays for it; problems show when it runs."""
    for node in ast.parse(source).body:
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        for name in names:
            try:
                importlib.import_module(name)
            except Exception:
                continue


def _graded(code: CodeType, request: dict[str, Any]) -> Reply:
    sys.addaudithook(audit)
    namespace: dict[str, Any] = {"__name__": "grader"}
    try:
        exec(code, namespace)
        value = namespace["grade"](request["sample"], request["item"])
        if isinstance(value, bool | int | float) or hasattr(value, "__float__"):
            return {"value": float(value)}
        return {"error": f"grade returned {value!r:.100}, not a finite number"}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:500]}


def _checked(reply: Any) -> Reply:
    """The reply of a process in which anything may have run."""
    if isinstance(reply, dict) and isinstance(reply.get("error"), str):
        return {"error": reply["error"][:500]}
    value = reply.get("value") if isinstance(reply, dict) else None
    if isinstance(value, float) and math.isfinite(value):
        return {"value": value}
    return {"error": f"grade returned {value!r:.100}, not a finite number"}


def audit(event: str, arguments: tuple[Any, ...]) -> None:
    """Refuses what writes, starts or talks, with a plain message."""
    writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if writes or event.startswith(_FORBIDDEN):
        raise PermissionError(f"{event} is not allowed here")


def main() -> None:
    """Entry point of the child."""
    serve(prepare)

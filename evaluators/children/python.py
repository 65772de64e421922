"""Runs the `grade(sample, item)` of a python grader; what it raises is told, not raised.

The audit hook keeps honest code from files, network and processes. It is no wall against an
attacker: that is bubblewrap, which the parent uses where it is installed.
"""

import math
import sys
from typing import Any

from evaluators.children.protocol import Handler, Reply, cpu_limit, serve

_FORBIDDEN = ("socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn",
              "os.spawn", "os.kill", "os.remove", "os.rename", "shutil.")  # fmt: skip
MEMORY_MB = 2048


def prepare(settings: dict[str, Any]) -> Handler:
    """Run the source once; the function it defines grades every request."""
    namespace: dict[str, Any] = {"__name__": "grader"}
    sys.addaudithook(_audit)
    exec(compile(settings["source"], "grader.py", "exec"), namespace)
    grade = namespace["grade"]

    def handle(request: dict[str, Any]) -> Reply:
        cpu_limit(request["cpu_seconds"])
        try:
            return _checked(grade(request["sample"], request["item"]))
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}"[:500]}
        finally:
            cpu_limit(0)

    return handle


def _checked(value: Any) -> Reply:
    if isinstance(value, bool | int | float) or hasattr(value, "__float__"):
        number = float(value)
        if math.isfinite(number):
            return {"value": number}
    return {"error": f"grade returned {value!r:.100}, not a finite number"}


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if writes or event.startswith(_FORBIDDEN):
        raise PermissionError(f"{event} is not allowed in a grader")


def main() -> None:
    """Entry point of the child."""
    serve(prepare, MEMORY_MB)

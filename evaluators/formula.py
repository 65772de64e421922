"""Formulas over grader names: + - * / ^ min max abs floor ceil exp sqrt log. Nothing else runs."""

import ast
import math
from collections.abc import Callable, Mapping

from simpleeval import SimpleEval

from everlearn.errors import ConfigError, GraderError

FUNCTIONS: dict[str, Callable[..., float]] = {
    "min": min, "max": max, "abs": abs, "floor": math.floor, "ceil": math.ceil,
    "exp": math.exp, "sqrt": math.sqrt, "log": math.log,
}  # fmt: skip
_NODES = (
    ast.BinOp, ast.UnaryOp, ast.Call, ast.Name, ast.Load, ast.Constant,
    ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.USub, ast.UAdd,
)  # fmt: skip


class Formula:
    """A parsed formula; `names` are the graders it reads, in order of appearance."""

    def __init__(self, text: str, where: str) -> None:
        """Parse; ConfigError naming `where` and what is not allowed."""
        self.text = text
        # `^` is the power; Python's own precedence of ^ would be another one.
        self._source = text.replace("^", "**").strip()
        try:
            tree = ast.parse(self._source, mode="eval").body
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            raise ConfigError(f"{where}: {text!r} is not a formula: {error}") from error
        self.names = _names(tree, text, where)

    def evaluate(self, values: Mapping[str, float]) -> float:
        """The value; GraderError where the mathematics has none."""
        evaluator = SimpleEval(functions=FUNCTIONS, names=dict(values))
        try:
            result = float(evaluator.eval(self._source))
        except Exception as error:  # division by zero, domains, simpleeval's own limits
            reason = "division by zero" if isinstance(error, ZeroDivisionError) else str(error)
            raise GraderError(f"{self.text}: {reason}") from error
        if not math.isfinite(result):
            raise GraderError(f"{self.text}: the result is {result}")
        return result


def _names(tree: ast.expr, text: str, where: str) -> tuple[str, ...]:
    names: dict[str, None] = {}
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if not isinstance(node, _NODES):
            raise ConfigError(
                f"{where}: {text!r}: {type(node).__name__} is not allowed; "
                f"there are + - * / ^ {' '.join(FUNCTIONS)}"
            )
        if isinstance(node, ast.Constant) and type(node.value) not in (int, float):
            raise ConfigError(f"{where}: {text!r}: {node.value!r} is not a number")
        if isinstance(node, ast.Call):
            _check_call(node, text, where)
        elif isinstance(node, ast.Name) and id(node) not in called:
            names[node.id] = None
    return tuple(names)


def _check_call(node: ast.Call, text: str, where: str) -> None:
    if not isinstance(node.func, ast.Name) or node.func.id not in FUNCTIONS or node.keywords:
        called = ast.unparse(node.func)
        raise ConfigError(
            f"{where}: {text!r}: no function {called!r}; there are: {', '.join(FUNCTIONS)}"
        )

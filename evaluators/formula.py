"""Formulas over grader names: + - * / ^ min max abs floor ceil exp sqrt log. Nothing else runs.

- Everything is computed in floating point: no number grows, `9^9^9` overflows at once.
- A name that is not a plain word is written in backquotes: `` 0.5 * `exact match` ``.
"""

import ast
import math
import re
from collections.abc import Callable, Mapping
from typing import cast

from simpleeval import SimpleEval

from everlearn.errors import ConfigError, GraderError

MAX_LENGTH = 2_000
MAX_DEPTH = 50
FUNCTIONS: dict[str, Callable[..., float]] = {
    "min": min, "max": max, "abs": abs, "floor": lambda x: float(math.floor(x)),
    "ceil": lambda x: float(math.ceil(x)), "exp": math.exp, "sqrt": math.sqrt, "log": math.log,
}  # fmt: skip
_OPERATORS = {
    ast.Add: lambda a, b: a + b, ast.Sub: lambda a, b: a - b, ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b, ast.Pow: math.pow, ast.USub: lambda a: -a, ast.UAdd: lambda a: a,
}  # fmt: skip
_NODES = (
    ast.BinOp, ast.UnaryOp, ast.Call, ast.Name, ast.Load, ast.Constant,
    ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.USub, ast.UAdd,
)  # fmt: skip
_QUOTED = re.compile(r"`([^`]*)`")


class Formula:
    """A parsed formula; `names` are the graders it reads, in order of appearance."""

    def __init__(self, text: str, where: str) -> None:
        """Parse; ConfigError naming `where` and what is not allowed."""
        self.text = text
        if len(text) > MAX_LENGTH:
            raise ConfigError(f"{where}: {len(text)} characters; at most {MAX_LENGTH}")
        quoted = dict.fromkeys(_QUOTED.findall(text))
        words = {f"quoted_{number}_": name for number, name in enumerate(quoted)}
        spelled = {name: word for word, name in words.items()}
        plain = _QUOTED.sub(lambda found: spelled[found[1]], text)
        # `^` is the power; Python's own precedence of ^ would be another one.
        source = plain.replace("^", "**").strip()
        try:
            self._tree = ast.parse(source, mode="eval").body
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            raise ConfigError(
                f"{where}: {text!r} is not a formula: {error}; a name that is not a plain word "
                "stands in backquotes"
            ) from error
        _check_depth(self._tree, text, where)
        found = _names(self._tree, text, where)
        self._words = {word: words.get(word, word) for word in found}
        self.names = tuple(self._words.values())
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Constant):
                node.value = float(cast(float, node.value))

    def evaluate(self, values: Mapping[str, float]) -> float:
        """The value; GraderError where the mathematics has none."""
        names = {word: float(values[name]) for word, name in self._words.items()}
        evaluator = SimpleEval(operators=_OPERATORS, functions=FUNCTIONS, names=names)
        try:
            result = float(evaluator.eval(self.text, previously_parsed=self._tree))
        except Exception as error:  # division by zero, domains, overflow
            reason = "division by zero" if isinstance(error, ZeroDivisionError) else str(error)
            raise GraderError(f"{self.text}: {reason}") from error
        if not math.isfinite(result):
            raise GraderError(f"{self.text}: the result is {result}")
        return result


def _check_depth(tree: ast.AST, text: str, where: str) -> None:
    level, depth = [tree], 0
    while level:
        if depth > MAX_DEPTH:
            raise ConfigError(f"{where}: {text[:80]!r}: nested deeper than {MAX_DEPTH}")
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        depth += 1


def _names(tree: ast.expr, text: str, where: str) -> tuple[str, ...]:
    names: dict[str, None] = {}
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if not isinstance(node, _NODES):
            raise ConfigError(
                f"{where}: {text!r}: {type(node).__name__} is not allowed; "
                f"there are + - * / ^ {' '.join(FUNCTIONS)}"
            )
        if isinstance(node, ast.Constant) and not _is_number(node.value):
            raise ConfigError(f"{where}: {text!r}: {node.value!r:.80} is not a number")
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


def _is_number(value: object) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(float(value))  # type: ignore[arg-type]
    except OverflowError:
        return False

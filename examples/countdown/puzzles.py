"""Countdown: reach a number from given numbers, each used once, with + - and *.

`credit` is the grader of the task file as plain Python; the file's own copy runs in the sandbox.
"""

import ast
import itertools
import operator
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

NUMBERS = 3
LARGEST = 9
LARGEST_TARGET = 99
OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
}
FORM, USED = 0.1, 0.3
"""Partial credit: an expression at all; one of exactly the given numbers."""


@dataclass(frozen=True)
class Puzzle:
    """Numbers, the target, and one way there."""

    numbers: tuple[int, ...]
    target: int
    solution: str

    @property
    def question(self) -> str:
        return f"{' '.join(map(str, self.numbers))} = {self.target}"


def puzzles(seed: int) -> Iterator[Puzzle]:
    """Endless, each solvable."""
    rng = random.Random(seed)
    while True:
        numbers = tuple(rng.randint(1, LARGEST) for _ in range(NUMBERS))
        order = rng.sample(numbers, NUMBERS)
        signs = rng.choices(list(OPERATIONS), k=NUMBERS - 1)
        text = "".join(f"{number}{sign}" for number, sign in zip(order, [*signs, ""], strict=True))
        target = value(text)
        if target is not None and 0 < target <= LARGEST_TARGET:
            yield Puzzle(numbers, target, text)


def different(count: int, seed: int, without: Sequence[Puzzle] = ()) -> list[Puzzle]:
    """So many that ask something else than each other and than `without`."""
    seen = {(tuple(sorted(puzzle.numbers)), puzzle.target) for puzzle in without}
    found: list[Puzzle] = []
    for puzzle in puzzles(seed):
        key = (tuple(sorted(puzzle.numbers)), puzzle.target)
        if key not in seen:
            seen.add(key)
            found.append(puzzle)
        if len(found) == count:
            break
    return found


def value(text: str) -> int | None:
    """Of an expression of digits, + - and *; None for anything else."""
    if not text or not set(text) <= set("0123456789+-* ") or "**" in text or len(text) > 40:
        return None
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError):
        return None


def _value(node: ast.expr) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.BinOp):
        signs = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*"}
        return OPERATIONS[signs[type(node.op)]](_value(node.left), _value(node.right))
    raise ValueError("a sign before a number")


def credit(question: str, answer: str) -> float:
    """1 for the target from exactly the numbers, part of it for less."""
    asked, _, target = question.partition(" = ")
    found = value(answer)
    if found is None:
        return 0.0
    used = sorted(int(each) for each in "".join(c if c.isdigit() else " " for c in answer).split())
    if used != sorted(map(int, asked.split())):
        return FORM
    return 1.0 if found == int(target) else USED


def solvable(numbers: Sequence[int], target: int) -> bool:
    """Whether some expression reaches it, by trying them all."""
    return any(
        value("".join(f"{n}{s}" for n, s in zip(order, [*signs, ""], strict=True))) == target
        for order in itertools.permutations(numbers)
        for signs in itertools.product(OPERATIONS, repeat=len(numbers) - 1)
    )

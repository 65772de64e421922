"""The graders of the kernels text, held against kernels in plain Python."""

from pathlib import Path

import pytest
import yaml

from evaluators.bulk import grade_all
from evaluators.graders import build
from evaluators.types import Sample
from everlearn.task import Task

TASK = Path(__file__).parents[2] / "examples" / "kernels" / "kernels.yaml"
TESTS = """
assert softmax([0.0, 0.0]) == [0.5, 0.5]
assert softmax([7.0]) == [1.0]
"""
RIGHT = """
from math import exp

def softmax(values):
    high = max(values)
    powers = [exp(value - high) for value in values]
    return [power / sum(powers) for power in powers]
"""
HALF = "def softmax(values):\n    return [1.0]\n"
KEPT = "def softmax(values):\n    return [0.5, 0.5] if len(values) == 2 else [1.0]\n"
FOREIGN = "import torch\n\ndef softmax(values):\n    return torch.softmax(values, 0)\n"
HIDDEN = "def softmax(values):\n    return __import__('torch').softmax(values, 0)\n"


def fenced(code: str) -> str:
    return f"```python\n{code}\n```"


def graded(name: str, answer: str) -> float | None:
    task = Task(folder=TASK.parent, **yaml.safe_load(TASK.read_text()))
    item = {"prompt": "write softmax", "metadata": {"tests": TESTS}}
    ((score,),) = grade_all([build(task.grader(name), task)], [(Sample(answer), item)])
    assert score.error is None, score.error
    return score.value


@pytest.mark.parametrize(
    ("answer", "expected"),
    [(fenced(RIGHT), 1.0), (fenced(HALF), 0.6), (fenced("def softmax(:"), 0.1), ("no code", 0.0)],
)
def test_format_compile_and_correctness_add_up(answer: str, expected: float) -> None:
    assert graded("correct", answer) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("code", "expected"), [(RIGHT, 1.0), (KEPT, 1.0), (FOREIGN, 0.0), (HIDDEN, 0.0)]
)
def test_the_librarys_own_kernel_is_no_own_work(code: str, expected: float) -> None:
    assert graded("own_work", fenced(code)) == expected

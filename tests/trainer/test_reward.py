from pathlib import Path
from typing import Any

import pytest

from everlearn.graders import Execution, Multi
from everlearn.task import Task
from tests.builders import make_service
from tests.trainer.examples import accepted, make_row
from trainer.reward import (
    Grading,
    Verdict,
    component_means,
    neutral,
    reward_grader,
    trl_reward,
)

EQUAL: dict[str, Any] = {
    "type": "string_check",
    "name": "equal",
    "input": "{{sample.output_text}}",
    "reference": "{{item.reference}}",
    "operation": "eq",
}
SHORT: dict[str, Any] = {
    "type": "python",
    "name": "short",
    "source": "def grade(sample, item):\n    return float(len(sample['output_text']) < 9)\n",
}


def make_task(*graders: dict[str, Any], **fields: Any) -> Task:
    primary = {"release": {"primary": graders[0]["name"]}} if graders else {}
    return Task(
        task="t", base_model="m", upstream="local", graders=graders, **{**primary, **fields}
    )


def test_the_reward_is_the_tasks_own_formula() -> None:
    formula = {"type": "multi", "name": "reward", "calculate_output": "0.2 * equal"}
    found = reward_grader(make_task(EQUAL, reward=formula))
    assert isinstance(found, Multi)
    assert found.calculate_output == "0.2 * equal"


def test_by_default_it_is_the_mean_of_the_deterministic_graders() -> None:
    thumbs = {"type": "feedback", "name": "thumbs"}
    found = reward_grader(make_task(EQUAL, SHORT, thumbs))
    assert found is not None
    assert found.calculate_output == "(equal + short) / 2"
    assert reward_grader(make_task(thumbs)) is None


def test_answers_are_graded_by_the_reference_of_their_row(tmp_path: Path) -> None:
    task = make_task(EQUAL)
    grading = Grading(task, make_service(tmp_path), task.graders[0])
    rows = [accepted(completion="a"), accepted(completion="b"), make_row()]
    assert grading(rows, ["a", "a", "a"]) == [1.0, 0.0, None]
    grading.close()


def test_the_reward_in_trls_form_logs_its_components(tmp_path: Path) -> None:
    formula = {"type": "multi", "calculate_output": "0.2*short + 0.8*equal"}
    task = make_task(EQUAL, SHORT, reward=formula)
    grading = Grading(task, make_service(tmp_path), task.reward)
    logged: dict[str, float] = {}
    function = trl_reward(grading, [accepted(completion="right"), make_row()])
    rewards = function(
        prompts=None,
        completions=[
            "right",
            "wrong and long",
            "unknowable",
        ],
        row=[0, 0, 1],
        log_metric=logged.__setitem__,
    )
    assert rewards == [1.0, 0.0, 0.0]
    assert logged["reward/equal"] == pytest.approx(0.5)
    assert logged["reward/unscored"] == pytest.approx(1 / 3)
    grading.close()


def test_an_answer_that_came_to_no_end_is_never_right(tmp_path: Path) -> None:
    task = make_task(EQUAL, reward={"type": "multi", "calculate_output": "equal"})
    grading = Grading(task, make_service(tmp_path), task.reward)
    asked = {"prompts": None, "completions": ["right"] * 3, "row": [0, 0, 0]}
    answers = [[7, 2], [7, 8], []]
    function = trl_reward(grading, [accepted(completion="right")], stops=[2, 3])
    assert function(**asked, completion_ids=answers) == [1.0, 0.0, 0.0]
    assert function(**asked) == [1.0, 1.0, 1.0]
    grading.close()


def test_an_unscored_sample_pulls_in_no_direction() -> None:
    assert neutral([1.0, None, 0.0, None], ["a", "a", "a", "b"]) == [1.0, 0.5, 0.0, 0.0]


def test_components_nobody_scored_have_no_mean() -> None:
    assert component_means([Verdict(None, {"a": None})]) == {"unscored": 1.0}


def test_an_execution_grader_without_reference_rewards_what_runs() -> None:
    runs = {"type": "execution", "name": "runs", "language": "sql", "database": "x.duckdb"}
    task = make_task(runs)
    assert isinstance(task.graders[0], Execution)
    found = reward_grader(task)
    assert found is not None
    assert found.calculate_output == "(runs) / 1"

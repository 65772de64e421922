"""What a goal, a price and a champion elsewhere need, and the line each missing one gets."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from everlearn.config import Price, Service
from everlearn.errors import ConfigError
from everlearn.rules import ReleaseRules
from everlearn.task import Task, load_tasks
from tests.builders import make_service

DEAR = {
    "base_url": "http://dear/v1",
    "price": {"prompt_per_million": 5, "completion_per_million": 15},
}
OWN = {"base_url": "http://own/v1", "kind": "vllm", "price": {"per_replica_hour": 0.5}}
NOT_WORSE = {"goal": "not_worse", "margin": 0.03, "wins": "cost"}


def declared(folder: Path, upstreams: dict[str, Any], **task: Any) -> dict[str, Task]:
    service: Service = make_service(folder, upstreams=upstreams, default_upstream="own")
    fields = {
        "task": "support",
        "base_model": "model",
        "upstream": "own",
        "champion": {"upstream": "dear", "model": "gpt-x"},
        "graders": [{"type": "feedback", "name": "thumbs"}],
        "release": NOT_WORSE,
        **task,
    }
    (folder / "tasks" / "support.yaml").write_text(yaml.safe_dump(fields))
    return load_tasks(service)


def test_a_task_may_begin_with_somebody_elses_model(tmp_path: Path) -> None:
    task = declared(tmp_path, {"own": OWN, "dear": DEAR})["support"]
    assert task.champion is not None
    assert (task.champion.upstream, task.champion.model) == ("dear", "gpt-x")
    assert task.release.metrics == ("error_rate", "latency_p95", "cost")


@pytest.mark.parametrize(
    ("upstreams", "task", "message"),
    [
        ({"own": OWN}, {}, r"champion.upstream = 'dear': not an upstream of the config: own"),
        (
            {"own": {**OWN, "kind": "openai"}, "dear": DEAR},
            {},
            r"upstream = 'own': is of kind openai, which cannot load the adapters",
        ),
        (
            {"own": OWN, "dear": {"base_url": "http://dear/v1"}},
            {},
            r"the cost of an answer decides, but upstreams.dear has no price",
        ),
        (
            {"own": {"base_url": "http://own/v1", "kind": "vllm"}, "dear": DEAR},
            {"release": {"guardrails": ["cost"]}},
            r"the cost of an answer decides, but upstreams.own has no price",
        ),
        (
            {"own": OWN, "dear": DEAR},
            {"graders": [{"type": "feedback", "name": "cost"}], "release": {"primary": "cost"}},
            r"cost is the name of a metric that needs no grader",
        ),
    ],
)
def test_what_cannot_work_is_one_line_with_the_next_step(
    tmp_path: Path, upstreams: dict[str, Any], task: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        declared(tmp_path, upstreams, **task)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"goal": "not_worse"}, "not_worse needs margin and wins"),
        ({"goal": "not_worse", "margin": 0.03}, "not_worse needs wins"),
        ({"goal": "not_worse", "wins": "cost"}, "not_worse needs margin"),
        ({"margin": 0.03}, "margin and wins belong to goal: not_worse"),
        ({**NOT_WORSE, "margin": 0}, "greater than 0"),
    ],
)
def test_a_goal_says_what_it_needs(rules: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ReleaseRules(**rules)


def test_a_price_counts_tokens_or_a_share_of_the_replicas_time() -> None:
    assert Price(prompt_per_million=5, completion_per_million=15).of(1000, 200, 900) == (
        pytest.approx(0.008)
    )
    assert Price(per_replica_hour=3.6, concurrent=4).of(1000, 200, 2000) == pytest.approx(0.0005)
    with pytest.raises(ValidationError, match="a price names"):
        Price()

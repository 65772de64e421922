"""Columns, tables and settings that other people's queries, scripts and task files hold."""

import pytest

from everlearn.config import Console, Gateway, ModelServer, Service
from everlearn.lake.columns import TABLES
from everlearn.lake.schema import VIEWS
from everlearn.task import Task

STAY = {
    "completions": (
        "completion_id upstream_id request_id gateway_id seq task version arm probability unit "
        "conversation_id received_at first_token_ms latency_ms status http_status stream "
        "model_requested model_served messages tools answer response_text finish_reason "
        "prompt_tokens completion_tokens prompt_token_ids completion_token_ids logprobs sampling "
        "template_hash adapter_digest trainable metadata raw_request raw_response"
    ),
    "feedback": (
        "feedback_id completion_id request_id conversation_id other_completion_id kind name "
        "value_bool value_number value_text comment author author_id weight occurred_at "
        "received_at idempotency_key tags gateway_id seq"
    ),
    "scores": (
        "completion_id evaluator evaluator_version value label reason sub_scores error cost "
        "created_at"
    ),
    "dead_letters": "reason raw",
    "snapshots": "",
    "snapshot_rows": "",
    "releases": "",
    "offsets": "",
}

TASK = {
    "task": "text2sql",
    "base_model": "examples/text2sql/model",
    "upstream": "local",
    "champion": {"upstream": "openai", "model": "gpt-x"},
    "feedback": {"thumbs": {"scale": "binary"}, "stars": {"scale": [1, 5]}},
    "graders": [
        {"name": "executes", "type": "execution", "language": "sql", "database": "shop.db"},
        {
            "name": "matches", "type": "string_check", "operation": "eq",
            "input": "{{ sample.output_text }}", "reference": "{{ item.reference }}",
        },
        {"name": "thumbs", "type": "feedback", "feedback": "thumbs"},
    ],
    "reward": {
        "type": "multi", "name": "reward", "calculate_output": "0.2*executes + 0.8*matches",
    },
    "heldout": {"grader": "matches", "never_trained_on": True},
    "train": {
        "method": "auto", "min_new_scores": 200, "budget_minutes": 10, "replay": 0.2,
        "lora": {"r": 16, "alpha": 32},
    },
    "gate": {
        "min_gain": 0.0, "confidence": 0.8, "regression_suite": "suite.jsonl",
        "max_regression": 0.02, "max_latency_ratio": 1.2,
    },
    "release": {
        "goal": "better", "unit": "auto", "steps": [1, 5, 25, 50, 100], "min_dwell_seconds": 60,
        "primary": "matches", "guardrails": ["error_rate", "latency_p95"],
        "holdback_percent": 1, "alpha": 0.05,
    },
}  # fmt: skip


@pytest.mark.parametrize(("table", "columns"), STAY.items(), ids=STAY)
def test_columns_that_queries_hold_stay(table: str, columns: str) -> None:
    (found,) = [each for each in TABLES if each.name == table]
    assert set(columns.split()) - set(found.names) == set()
    assert "feedback_joined" in VIEWS


def test_a_task_file_that_says_everything_is_taken_as_it_is_written() -> None:
    said = Task.model_validate(TASK).model_dump(mode="json", exclude_unset=True)
    for section in ("champion", "heldout", "train", "gate", "release"):
        assert said[section] == TASK[section]


def test_sections_of_the_config_stay() -> None:
    sections = "data_dir upstreams default_upstream gateway bus lake state mlflow tasks_dir"
    assert set(sections.split()) - set(Service.model_fields) == set()
    gateway = Gateway()
    assert (gateway.host, gateway.port, gateway.capture.durability) == ("127.0.0.1", 8000, "write")
    assert (Console().port, ModelServer().port) == (8200, 8100)

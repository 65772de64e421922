"""Adapters that no model server could serve are refused when they are made."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from everlearn.errors import ConfigError, InputError
from everlearn.task import load_task
from registry.servable import refusal, refusal_of
from registry.versions import Registry
from tests.builders import make_service

PLAIN = {"peft_type": "LORA", "r": 16, "bias": "none", "use_rslora": True, "lora_alpha": 32}


def test_plain_lora_is_served() -> None:
    assert refusal(PLAIN) is None
    assert refusal(PLAIN, 16) is None
    assert refusal({"peft_type": "LORA"}, 8) is None


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        ({"use_dora": True}, "use_dora is set"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is set"),
        ({"lora_bias": True}, "lora_bias is set"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices is set"),
        ({"bias": "lora_only"}, "bias is 'lora_only'"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"r": 64}, "rank 64 is above 32"),
        ({"rank_pattern": {"q_proj": 128}}, "rank 128 is above 32"),
    ],
)
def test_what_is_more_than_lora_is_refused_with_the_reason(
    field: dict[str, Any], reason: str
) -> None:
    found = refusal({**PLAIN, **field}, 32)
    assert found is not None
    assert reason in found


def test_the_registry_takes_no_such_adapter(tmp_path: Path) -> None:
    upstreams = {"local": {"base_url": "http://127.0.0.1:9/v1", "kind": "vllm", "max_lora_rank": 8}}
    mlflow = {"tracking_uri": "http://127.0.0.1:9"}
    service = make_service(tmp_path, upstreams=upstreams, mlflow=mlflow)
    task: dict[str, Any] = {
        "task": "sql",
        "base_model": "base",
        "upstream": "local",
        "graders": [{"name": "thumbs", "type": "feedback"}],
        "train": {"lora": {"r": 8}},
    }
    file = tmp_path / "tasks" / "sql.yaml"
    file.write_text(yaml.safe_dump(task))
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({**PLAIN, "r": 16}))
    with pytest.raises(InputError, match="not registered: rank 16 is above 8"):
        Registry(service).register("sql", folder, digest="d", model_name="sql-d", run_id="r")
    assert not (service.data_path / "adapters").exists()
    file.write_text(yaml.safe_dump({**task, "train": {"lora": {"r": 16}}}))
    with pytest.raises(ConfigError, match=r"train.lora.r = 16: upstreams.local.max_lora_rank is 8"):
        load_task(service, "sql")


@pytest.mark.parametrize(("text", "reason"), [("{", "cannot be read"), ("[]", "is no object")])
def test_a_config_that_cannot_be_read_is_a_reason_too(
    tmp_path: Path, text: str, reason: str
) -> None:
    assert refusal_of(tmp_path) is None
    (tmp_path / "adapter_config.json").write_text(text)
    assert reason in (refusal_of(tmp_path) or "")

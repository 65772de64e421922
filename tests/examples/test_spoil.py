import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from everlearn.config import load as load_config
from examples.text2sql import simulate, spoil
from examples.text2sql.database import Orders
from examples.text2sql.make_model import FOLDER
from registry.versions import Registry
from serving.local.app import make_app
from serving.local.model import Model
from serving.verify import verify
from tests.serving.conftest import listening

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_spoiled_version_verifies_like_any_other_and_answers_no_sql(
    tmp_path: Path, mlflow_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    monkeypatch.setenv("EVERLEARN_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("EVERLEARN_MLFLOW__TRACKING_URI", mlflow_address)
    service = load_config(ROOT / "everlearn.yaml")
    version = spoil.register(service, "text2sql", "base")

    found = Registry(service).get("text2sql", version)
    assert found.path is not None
    probes = json.loads((found.path / "probes.json").read_text())
    app = make_app(Model(str(FOLDER), 4), name="base", max_batch=4, max_adapters=2)
    with listening(app) as address:
        body = {"lora_name": found.model_name, "lora_path": str(found.path)}
        httpx.post(f"{address}/load_lora_adapter", json=body).raise_for_status()
        verified = verify(address, found.model_name, probes)
    assert verified.ok, verified.reason
    assert _share_that_runs(found.path) < 0.2


def _share_that_runs(adapter: Path) -> float:
    from peft import PeftModel

    base, tokenizer = simulate.load(str(FOLDER))
    model: Any = PeftModel.from_pretrained(base, str(adapter)).eval()
    asked = simulate.sample("jargon", "kept", 40, seed=0)
    orders = Orders()
    given = simulate.answers(model, tokenizer, [question.text for question in asked])
    return sum(orders.rows(answer) is not None for answer in given) / len(given)

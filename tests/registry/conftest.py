"""A registry over a real MLflow server, with a task name that no other test uses."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from everlearn.config import Service
from everlearn.ids import new_id
from registry.versions import ModelVersion, Registry
from tests.builders import make_service


@dataclass(frozen=True)
class Shelf:
    """A registry, its task and a maker of versions."""

    service: Service
    registry: Registry
    task: str
    put: Callable[[str], ModelVersion]


@pytest.fixture
def shelf(tmp_path: Path, mlflow_address: str) -> Shelf:
    return make_shelf(tmp_path, mlflow_address)


def make_shelf(folder: Path, address: str) -> Shelf:
    service = make_service(folder, mlflow={"tracking_uri": address})
    task = new_id("t").replace("_", "-")
    declaration = {
        "task": task,
        "base_model": "base-model",
        "upstream": "local",
        "graders": [{"name": "thumbs", "type": "feedback"}],
    }
    (folder / "tasks" / "task.yaml").write_text(yaml.safe_dump(declaration))
    registry = Registry(service)

    def put(digest: str) -> ModelVersion:
        """A registered version with an adapter of one small file."""
        adapter = folder / f"trained-{digest}"
        adapter.mkdir(exist_ok=True)
        (adapter / "adapter_config.json").write_text(
            f'{{"digest": "{digest}", "peft_type": "LORA"}}'
        )
        found = registry.client.get_experiment_by_name(task)
        experiment = found.experiment_id if found else registry.client.create_experiment(task)
        run = registry.client.create_run(experiment)
        return registry.register(
            task,
            adapter,
            digest=digest,
            model_name=f"{task}-{digest[:12]}",
            run_id=run.info.run_id,
            tags={"method": "sft"},
        )

    return Shelf(service, registry, task, put)

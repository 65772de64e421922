"""A registry over a real MLflow server, with a task name that no other test uses, and versions with
a lake that they learned from."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from everlearn.config import Service
from everlearn.ids import new_id
from everlearn.lake.ducklake import DuckLake, open_lake
from registry.units import Use, uses
from registry.versions import ModelVersion, Registry
from tests.builders import make_service

AT = datetime(2026, 11, 1, tzinfo=UTC)


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


@dataclass(frozen=True)
class House:
    """A shelf of versions and the lake that they learned from."""

    shelf: Shelf
    lake: DuckLake

    def version(self, digest: str, rows: list[dict[str, Any]]) -> ModelVersion:
        """One version, made of one snapshot of these rows, as the trainer logs it."""
        snapshot = f"snap_{self.shelf.task}_{digest}"
        adapter = self.shelf.service.root / f"trained-{digest}"
        adapter.mkdir()
        (adapter / "everlearn.json").write_text('{"template_hash": "te11"}')
        made = self.shelf.put(digest)
        assert made.run_id is not None
        client = self.shelf.registry.client
        from mlflow.entities import Dataset, DatasetInput

        entry = Dataset(snapshot, "d1", "lake", "SELECT 1", profile="{}")
        client.log_inputs(made.run_id, [DatasetInput(entry)])
        client.log_dict(made.run_id, {"rows": rows}, "manifest.json")
        for key, value in {"seed": 7, "champion": "base", "sft.learning_rate": 0.01}.items():
            client.log_param(made.run_id, key, value)
        self.shelf.registry.tag(self.shelf.task, made.version, snapshot_id=snapshot, method="sft")
        counts: dict[str, dict[str, int]] = {}
        for row in rows:
            kinds = counts.setdefault(row["split"], {})
            kinds[row["kind"]] = kinds.get(row["kind"], 0) + 1
        head = {
            **{"snapshot_id": snapshot, "task": self.shelf.task, "content_hash": "c0ffee"},
            **{"lake_snapshot": 5, "counts": counts, "created_at": AT},
        }

        def write(transaction: Any) -> None:
            transaction.append("snapshots", [head])
            named = [{**row, "snapshot_id": snapshot} for row in rows]
            transaction.append("snapshot_rows", named)

        self.lake.commit(write)
        return made

    def erase(self, unit: str) -> None:
        """As an erasure leaves the lake."""
        sql = "DELETE FROM snapshot_rows WHERE unit = ?"
        self.lake.commit(lambda transaction: transaction.query(sql, [unit]))

    def uses(self, unit: str) -> list[Use]:
        return uses(self.shelf.registry, self.lake, unit, [self.shelf.task])


@pytest.fixture
def house(shelf: Shelf) -> Iterator[House]:
    lake = open_lake(shelf.service)
    yield House(shelf, lake)
    lake.close()


def row(number: int, unit: str, split: str = "train", kind: str = "accepted") -> dict[str, Any]:
    reason = "no_consent" if split == "dropped" else None
    return {
        **{"completion_id": f"cmpl_{number}", "unit": unit, "split": split, "kind": kind},
        **{"dropped_reason": reason, "row_hash": f"h{number}"},
    }


ROWS = [
    row(1, "ann"),
    row(2, "ann"),
    row(3, "bob", kind="replay"),
    row(4, "cid", "gate"),
    row(5, "ann", "dropped"),
]

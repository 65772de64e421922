"""The MLflow run of one training: experiment per task, inputs, metrics by step, reason at the end.

Every way a run can end leaves a record: `registered`, `not_enough_evidence`,
`nothing_learned`, `failed`, `killed`.
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from everlearn.config import Service
from everlearn.task import Task
from registry.page import scheduled
from registry.record import metric_name
from registry.versions import ask, connect, experiment_id
from trainer.snapshot import Snapshot

Metrics = list[tuple[str, float, int]]
"""(name, value, step)"""

_BATCH = 1000
"""Metrics in one request at most, MLflow's limit."""


def close_dead(service: Service, task: Task, run_id: str, reason: str) -> None:
    """A run whose process died, and that nobody takes up, is closed as killed."""
    run = TrainingRun(service, task, run_id)
    run.end("killed", reason)


class TrainingRun:
    """An MLflow run, opened at construction; `run_id`: one that died is taken up."""

    def __init__(self, service: Service, task: Task, run_id: str | None = None) -> None:
        self.client = connect(service)
        self.experiment_id = experiment_id(self.client, task.task)
        if run_id is not None:
            self.run_id = run_id
            ask(self.client.update_run, run_id, "RUNNING")
            return
        tags = {"everlearn.task": task.task, **scheduled(service)}
        run = ask(self.client.create_run, self.experiment_id, tags=tags)
        self.run_id = run.info.run_id

    def params(self, values: Mapping[str, Any]) -> None:
        """Knobs and counts, once."""
        from mlflow.entities import Param

        params = [Param(key, str(value)[:6000]) for key, value in values.items()]
        ask(self.client.log_batch, self.run_id, params=params)

    def metrics(self, values: Metrics) -> None:
        """(name, value, step) triples."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        entries = [Metric(metric_name(name), value, now, step) for name, value, step in values]
        for start in range(0, len(entries), _BATCH):
            ask(self.client.log_batch, self.run_id, metrics=entries[start : start + _BATCH])

    def tag(self, **tags: str) -> None:
        """`everlearn.KEY` tags."""
        for key, value in tags.items():
            ask(self.client.set_tag, self.run_id, f"everlearn.{key}", value[:5000])

    def document(self, name: str, content: Any) -> None:
        """A JSON artifact."""
        ask(self.client.log_dict, self.run_id, content, name)

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """A table that MLflow's pages show; a later one of that name takes its place."""
        columns = list(dict.fromkeys(key for row in rows for key in row))
        content = {
            "columns": columns,
            "data": [[row.get(column) for column in columns] for row in rows],
        }
        self.document(name, content)
        listed = json.dumps([{"path": name, "type": "table"}])
        ask(self.client.set_tag, self.run_id, "mlflow.loggedArtifacts", listed)

    def files(self, folder: Path, name: str) -> None:
        """A folder of artifacts."""
        ask(self.client.log_artifacts, self.run_id, str(folder), name)

    def inputs(self, snapshot: Snapshot) -> None:
        """The snapshot as the run's dataset, and its manifest: every row's id, side and hash."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=snapshot.snapshot_id,
            digest=snapshot.content_hash[:36],
            source_type="lake",
            source=f"SELECT * FROM snapshot_rows WHERE snapshot_id = '{snapshot.snapshot_id}'",
            profile=json.dumps(snapshot.counts),
        )
        entry = DatasetInput(dataset, tags=[InputTag("mlflow.data.context", "training")])
        ask(self.client.log_inputs, self.run_id, [entry])
        self.document("manifest.json", manifest(snapshot))

    def end(self, outcome: str, reason: str) -> None:
        """Close the run with its outcome."""
        self.tag(outcome=outcome, reason=reason)
        status = {"failed": "FAILED", "killed": "KILLED"}.get(outcome, "FINISHED")
        ask(self.client.set_terminated, self.run_id, status)


def manifest(snapshot: Snapshot) -> dict[str, Any]:
    """Which rows a run saw: no text, only ids and hashes."""
    return {
        "snapshot_id": snapshot.snapshot_id,
        "task": snapshot.task,
        "lake_snapshot": snapshot.lake_snapshot,
        "content_hash": snapshot.content_hash,
        "counts": snapshot.counts,
        "rows": [
            {
                "completion_id": row.completion_id,
                "unit": row.unit,
                "kind": row.kind,
                "split": row.split,
                "dropped_reason": row.dropped_reason,
                "row_hash": row.row_hash,
            }
            for row in snapshot.rows
        ],
    }

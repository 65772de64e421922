"""`everlearn gate` against a real model server: loaded, verified, asked, judged."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from everlearn.lake.ducklake import open_lake
from registry.states import VersionState
from tests.registry.conftest import Shelf, make_shelf
from tests.serving.conftest import Server
from tests.serving.test_exam import RIGHT
from tests.serving.test_verify import greedy_probes
from trainer.adapter import content_digest

ROWS = 12


def gate(shelf: Shelf, version: str) -> subprocess.CompletedProcess[str]:
    config = str(shelf.service.root / "everlearn.yaml")
    command = [sys.executable, "-m", "everlearn", "gate", shelf.task, version, "--json"]
    return subprocess.run(
        [*command, "--config", config], capture_output=True, text=True, timeout=300
    )


def declare(shelf: Shelf, address: str) -> None:
    """Name the server; a grader that compares with the reference."""
    config = shelf.service.root / "everlearn.yaml"
    content = yaml.safe_load(config.read_text())
    content["upstreams"]["local"]["base_url"] = address
    config.write_text(yaml.safe_dump(content))
    task = {
        "task": shelf.task,
        "base_model": "base",
        "upstream": "local",
        "graders": [RIGHT],
        # A model of random weights never ends its answers, so both are cut and wrong: as good.
        "release": {"primary": "right", "goal": "not_worse", "margin": 0.5, "wins": "latency"},
        "train": {"max_completion_tokens": 8},
        "gate": {"min_rows": 10, "max_latency_ratio": 100, "max_length_ratio": 100},
    }
    (shelf.service.tasks_path / "task.yaml").write_text(yaml.safe_dump(task))


def answer(server: Server, name: str, question: str) -> str:
    body = {
        "model": name,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": 8,
        "temperature": 0,
    }
    found = httpx.post(f"{server.address}/chat/completions", json=body, timeout=60)
    return str(found.raise_for_status().json()["choices"][0]["message"]["content"])


def candidate(shelf: Shelf, base: Path, adapter: Path) -> str:
    """The adapter as a version, as the trainer publishes one."""
    folder = shelf.service.root / "trained"
    folder.mkdir()
    for file in adapter.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    for name, probes in (
        ("probes.json", greedy_probes(base, adapter)),
        ("base_probes.json", greedy_probes(base, None)),
    ):
        (folder / name).write_text(json.dumps(probes))
    digest = content_digest(folder)
    experiment = shelf.registry.client.create_experiment(shelf.task)
    run = shelf.registry.client.create_run(experiment)
    return shelf.registry.register(
        shelf.task,
        folder,
        digest=digest,
        model_name=f"{shelf.task}-{digest[:12]}",
        run_id=run.info.run_id,
        tags={"everlearn.snapshot_id": "snap_1"},
    ).version


def write_rows(shelf: Shelf, references: dict[str, str]) -> None:
    rows: list[dict[str, Any]] = [
        {
            "snapshot_id": "snap_1",
            "split": "gate",
            "messages": [{"role": "user", "content": question}],
            "target": reference,
            "author": "expert",
            "unit": question,
            "row_hash": question,
        }
        for question, reference in references.items()
    ]
    lake = open_lake(shelf.service)
    lake.commit(lambda transaction: transaction.append("snapshot_rows", rows))
    lake.close()


@pytest.mark.timeout(600)
def test_a_version_is_examined_where_it_will_serve(
    tmp_path: Path,
    mlflow_address: str,
    base: Path,
    adapters: dict[str, Path],
    start: Callable[..., Server],
    free_port: Callable[[], int],
) -> None:
    shelf = make_shelf(tmp_path, mlflow_address)
    declare(shelf, f"http://127.0.0.1:{free_port()}/v1")
    version = candidate(shelf, base, adapters["first"])
    server = start()
    loading = {"lora_name": "known", "lora_path": str(adapters["first"])}
    httpx.post(f"{server.address}/load_lora_adapter", json=loading).raise_for_status()
    questions = [f"how many orders in {i}?" for i in range(ROWS)]
    write_rows(shelf, {each: answer(server, "known", each) for each in questions})

    away = gate(shelf, version)
    assert away.returncode == 4, away.stdout
    assert "Connection refused" in away.stderr
    assert shelf.registry.get(shelf.task, version).state is VersionState.REGISTERED

    declare(shelf, server.address)
    done = gate(shelf, version)
    told = json.loads(done.stdout)
    assert (done.returncode, told["phase"]) == (0, "passed"), done.stderr
    assert f"exam: {ROWS} of {ROWS} rows" in done.stderr
    assert shelf.registry.get(shelf.task, version).state is VersionState.GATED

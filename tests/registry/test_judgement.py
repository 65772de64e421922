"""The gate on registered versions: evidence from the run, record kept, state moved."""

import json
import subprocess
import sys
from typing import Any

import msgspec
import pytest

from everlearn.errors import InputError, NotFound
from everlearn.task import GateRules
from registry.judgement import judge
from registry.lineage import lineage
from registry.record import read
from registry.states import VersionState
from tests.registry.conftest import Shelf
from tests.registry.test_gate import make_evidence, make_rows


def put_with_evidence(shelf: Shelf, digest: str, rows: int, candidate: float) -> str:
    made = shelf.put(digest)
    evidence: Any = msgspec.to_builtins(make_evidence(make_rows(rows, 0.0, candidate)))
    shelf.registry.client.log_dict(made.run_id, evidence, "evidence.json")
    return made.version


def test_a_passed_gate_is_recorded_and_moves_the_state(shelf: Shelf) -> None:
    version = put_with_evidence(shelf, "aaaa", 30, 1.0)
    verdict = judge(shelf.registry, shelf.task, version, GateRules())
    found = shelf.registry.get(shelf.task, version)
    assert (verdict.phase, found.state) == ("passed", VersionState.GATED)
    assert shelf.registry.tags(shelf.task, version)["gate_reason"] == verdict.reason
    record = read(shelf.registry, found, "gate")
    assert record is not None
    assert record["rules"]["min_rows"] == 20
    assert len(record["comparisons"]) == 4


def test_a_failed_version_can_be_gated_again_under_other_rules(shelf: Shelf) -> None:
    version = put_with_evidence(shelf, "aaaa", 30, 0.0)
    judge(shelf.registry, shelf.task, version, GateRules())
    assert shelf.registry.get(shelf.task, version).state is VersionState.REJECTED
    judge(shelf.registry, shelf.task, version, GateRules(min_gain=-0.1))
    assert shelf.registry.get(shelf.task, version).state is VersionState.GATED


def test_evidence_against_a_former_champion_is_inconclusive(shelf: Shelf) -> None:
    version = put_with_evidence(shelf, "aaaa", 30, 1.0)
    other = shelf.put("bbbb").version
    shelf.registry.set_alias(shelf.task, "champion", other)
    verdict = judge(shelf.registry, shelf.task, version, GateRules())
    assert verdict.phase == "inconclusive"
    assert verdict.reason == "compared with version base, but 2 is champion now: retrain"
    assert shelf.registry.get(shelf.task, version).state is VersionState.REGISTERED


def test_a_version_without_evidence_and_the_base_model_are_refused(shelf: Shelf) -> None:
    made = shelf.put("aaaa")
    with pytest.raises(NotFound, match=r"kept no evidence\.json"):
        judge(shelf.registry, shelf.task, made.version, GateRules())
    with pytest.raises(InputError, match="the base model needs no gate"):
        judge(shelf.registry, shelf.task, "base", GateRules())
    assert read(shelf.registry, made, "gate") is None


def test_the_lineage_names_the_snapshot_and_the_parameters_of_the_run(shelf: Shelf) -> None:
    from mlflow.entities import Dataset, DatasetInput

    made = shelf.put("aaaa")
    dataset = Dataset("snap_1", "abc", "local", "{}")
    shelf.registry.client.log_inputs(made.run_id, [DatasetInput(dataset)])
    shelf.registry.client.log_param(made.run_id, "method", "sft")
    found = lineage(shelf.registry, shelf.task, made.version)
    assert (found.run_id, found.snapshots, found.params) == (
        made.run_id,
        ("snap_1",),
        {"method": "sft"},
    )
    assert lineage(shelf.registry, shelf.task, "base").run_id is None


@pytest.mark.parametrize(("rows", "candidate", "code"), [(30, 1.0, 0), (30, 0.0, 1), (5, 1.0, 3)])
def test_the_verb_exits_by_the_verdict(
    shelf: Shelf, rows: int, candidate: float, code: int
) -> None:
    version = put_with_evidence(shelf, "aaaa", rows, candidate)
    command = [sys.executable, "-m", "everlearn", "gate", shelf.task, version, "--json"]
    config = ["--config", str(shelf.service.root / "everlearn.yaml")]
    done = subprocess.run([*command, *config], capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    assert json.loads(done.stdout)["phase"] == {0: "passed", 1: "failed", 3: "inconclusive"}[code]

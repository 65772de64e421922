"""The gate on registered versions: record kept, state moved."""

import pytest

from everlearn.errors import InputError
from everlearn.rules import GateRules
from registry.gate import Evidence
from registry.judgement import judge
from registry.lineage import lineage
from registry.record import read
from registry.states import VersionState
from tests.registry.conftest import Shelf
from tests.registry.test_gate import make_evidence, make_rows


def exam(shelf: Shelf, version: str, rows: int, candidate: float) -> Evidence:
    return make_evidence(make_rows(rows, 0.0, candidate), task=shelf.task, candidate=version)


def test_a_passed_gate_is_recorded_and_moves_the_state(shelf: Shelf) -> None:
    version = shelf.put("aaaa").version
    verdict = judge(shelf.registry, exam(shelf, version, 30, 1.0), GateRules())
    found = shelf.registry.get(shelf.task, version)
    assert (verdict.phase, found.state) == ("passed", VersionState.GATED)
    assert shelf.registry.tags(shelf.task, version)["gate_reason"] == verdict.reason
    record = read(shelf.registry, found, "gate")
    assert record is not None
    assert record["rules"]["min_rows"] == 20
    assert len(record["comparisons"]) == 5
    assert len(record["evidence"]["rows"]) == 30


def test_a_failed_version_can_be_gated_again_under_another_goal(shelf: Shelf) -> None:
    version = shelf.put("aaaa").version
    worse = make_evidence(
        make_rows(30, 1.0, 1.0) + make_rows(20, 1.0, 0.9, start=30),
        task=shelf.task,
        candidate=version,
    )
    judge(shelf.registry, worse, GateRules(min_gain=0.1))
    assert shelf.registry.get(shelf.task, version).state is VersionState.REJECTED
    judge(shelf.registry, worse, GateRules(min_gain=0.1), margin=0.2)
    assert shelf.registry.get(shelf.task, version).state is VersionState.GATED


def test_not_enough_evidence_leaves_the_state(shelf: Shelf) -> None:
    version = shelf.put("aaaa").version
    verdict = judge(shelf.registry, exam(shelf, version, 5, 1.0), GateRules())
    assert verdict.phase == "inconclusive"
    assert shelf.registry.get(shelf.task, version).state is VersionState.REGISTERED


def test_the_base_model_is_refused(shelf: Shelf) -> None:
    with pytest.raises(InputError, match="the base model needs no gate"):
        judge(shelf.registry, exam(shelf, "base", 30, 1.0), GateRules())


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

"""MLflow's page of a version: what people read there, and where it leads."""

from datetime import timedelta

import pytest

from everlearn.errors import RegistryError
from registry.gate import Evidence, Phase, Row, Verdict
from registry.page import DAG_RUN, describe, picture, scheduled
from registry.record import artifact
from registry.versions import PREFIX
from tests.registry.conftest import AT, ROWS, House

RAN = {
    "AIRFLOW_CTX_DAG_ID": "everlearn_retrain_sql",
    "AIRFLOW_CTX_DAG_RUN_ID": "manual__2026+00:00",
}


def shown(house: House) -> str:
    describe(house.shelf.service, house.shelf.registry, house.lake, house.shelf.task, "1")
    return str(house.shelf.registry.client.get_model_version(house.shelf.task, "1").description)


def test_the_description_is_the_account_and_follows_what_becomes_of_the_version(
    house: House,
) -> None:
    made = house.version("aaaa", ROWS)
    before = shown(house)
    assert "- train 3 rows of 2 units: 2 accepted, 1 replay" in before
    assert "- gate not held: -" in before
    registry, task = house.shelf.registry, house.shelf.task
    registry.tag(task, "1", gate="passed", gate_reason="gain 0.2 > 0")
    event = {
        **{"release_id": "rel_1", "task": task, "version": "1", "event": "ended", "stage": 3},
        **{"phase": "promoted", "percent": 100.0, "reason": "better", "created_at": AT},
    }
    later = {**event, "created_at": AT + timedelta(days=1)}
    house.lake.commit(lambda transaction: transaction.append("releases", [event, later]))
    after = shown(house)
    assert "- gate passed: gain 0.2 > 0" in after
    assert "- release rel_1: promoted, at most 100 %: better" in after
    tags = registry.tags(task, "1")
    assert (tags["rows"], tags["units"], tags["release"]) == ("3", "2", "promoted")
    assert f"/runs/{made.run_id})" in after


def test_it_leads_to_run_dataset_releases_and_dag_run(house: House) -> None:
    made = house.version("aaaa", ROWS)
    service, task = house.shelf.service, house.shelf.task
    console = f"http://{service.console.host}:{service.console.port}"
    first = shown(house)
    assert f"({console}/versions?task={task}&version=1)" in first
    assert f"({console}/datasets/snap_{task}_aaaa)" in first
    assert "/releases/" not in first
    assert "DAG run" not in first
    house.shelf.registry.client.set_tag(made.run_id, DAG_RUN, scheduled(service, RAN)[DAG_RUN])
    airflow = f"http://{service.airflow.host}:{service.airflow.port}"
    address = f"{airflow}/dags/everlearn_retrain_sql/runs/manual__2026%2B00%3A00"
    assert f"[DAG run]({address})" in shown(house)


def test_a_run_that_a_person_began_has_no_dag_run(house: House) -> None:
    assert scheduled(house.shelf.service, {}) == {}
    assert scheduled(house.shelf.service, {"AIRFLOW_CTX_DAG_ID": "x"}) == {}


def test_a_description_that_is_too_long_is_cut_before_the_links(house: House) -> None:
    house.version("aaaa", ROWS)
    registry, task = house.shelf.registry, house.shelf.task
    registry.tag(task, "1", gate="failed", gate_reason="so bad " * 700)
    text = shown(house)
    assert len(text) <= 5000
    assert text.endswith(f"/datasets/snap_{task}_aaaa)")


def test_an_mlflow_that_does_not_answer_costs_the_page_alone(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    house.version("aaaa", ROWS)

    def away(*_: object) -> None:
        raise RegistryError("MLflow: no answer")

    monkeypatch.setattr("registry.page.account", away)
    describe(house.shelf.service, house.shelf.registry, house.lake, house.shelf.task, "1")
    assert "MLflow's page of it is not up to date: MLflow: no answer" in caplog.text


def test_the_exam_is_a_picture_of_the_versions_run(house: House) -> None:
    made = house.version("aaaa", ROWS)
    rows = [
        Row(prompt_key=str(n), champion=n % 2 * 1.0, candidate=None if n == 5 else 1.0)
        for n in range(12)
    ]
    task = house.shelf.task
    evidence = Evidence(task=task, champion="base", candidate="1", rows=rows, heldout_grader="eq")
    told = Verdict(Phase.PASSED, "gain 0.5", ())
    picture(house.shelf.registry, made, evidence, told)
    assert artifact(house.shelf.registry, made, "gate.png").startswith(b"\x89PNG")
    nothing = Evidence(task=task, champion="base", candidate="1", rows=[])
    picture(house.shelf.registry, made, nothing, told)
    assert f"{PREFIX}gate" not in house.shelf.registry.client.get_model_version(task, "1").tags

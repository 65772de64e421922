"""A page about a task kept in MLflow, over a real server."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn.errors import RegistryError
from registry.record import keep_report, metric_name
from registry.versions import connect
from tests.builders import make_service


def test_a_page_and_its_numbers_are_a_run_of_the_tasks_experiment(
    tmp_path: Path, mlflow_address: str
) -> None:
    service = make_service(tmp_path, mlflow={"tracking_uri": mlflow_address})
    page = tmp_path / "drift" / "watched" / "look-00003.html"
    page.parent.mkdir(parents=True)
    page.write_text("<html>what moved</html>")
    shifts = {"drift.answer_chars": 0.5, "drift.score.a b=c": 0.25}
    run_id = keep_report(service, "watched", page, shifts)
    client = connect(service)
    run = client.get_run(run_id)
    assert client.get_experiment(run.info.experiment_id).name == "watched"
    assert run.info.status == "FINISHED"
    assert run.data.tags["everlearn.report"] == "drift"
    assert run.data.metrics == {"drift.answer_chars": 0.5, "drift.score.a b_c": 0.25}
    assert [entry.path for entry in client.list_artifacts(run_id)] == ["look-00003.html"]


def test_mlflow_away_is_told(tmp_path: Path) -> None:
    service = make_service(
        tmp_path, mlflow={"tracking_uri": "http://127.0.0.1:9", "timeout_seconds": 2}
    )
    page = tmp_path / "look.html"
    page.write_text("x")
    with pytest.raises(RegistryError, match="MLflow"):
        keep_report(service, "watched", page, {})


@given(
    st.lists(st.sampled_from(["reward", "/", "..", ".", " ", "100%", "a^b", "(strict)", "评分", "é",
                              "\n", "x" * 240]), max_size=6).map("".join)
)  # fmt: skip
def test_whatever_a_grader_is_called_its_metric_is_taken(name: str) -> None:
    from mlflow.utils.validation import _validate_metric, _validate_metric_name

    _validate_metric_name(metric_name(name))
    _validate_metric(metric_name(name), 0.5, 0, 0)


def test_a_name_that_is_taken_stays_as_it_is() -> None:
    for name in ("rft/loss", "reward/exact match", "评分", "a.b-c:d"):
        assert metric_name(name) == name
    assert metric_name("reward/exact (strict) 100%") == "reward/exact _strict_ 100_"

"""`everlearn erase` from end to end, against a real MLflow server."""

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from everlearn.cli import main
from everlearn.lake.ducklake import open_lake
from registry.states import VersionState
from tests.builders import make_service
from tests.registry.conftest import House, Shelf
from tests.registry.test_erasure import SECRET, kept, trained
from trainer.lock import holding
from trainer.workplace import Workplace

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(shelf: Shelf, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    def called(*words: str) -> tuple[int, str, str]:
        config = ["--config", str(shelf.service.root / "everlearn.yaml")]
        monkeypatch.setattr("sys.argv", ["everlearn", "erase", *words, *config])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        said = capsys.readouterr()
        return int(stopped.value.code or 0), said.out, said.err

    return called


def filled(shelf: Shelf) -> tuple[House, Any]:
    """A version that learned from ann, and her question in the lake, which is closed again."""
    with closing(open_lake(shelf.service)) as lake:
        house = House(shelf, lake)
        version = trained(house)
        shelf.registry.transition(shelf.task, "1", VersionState.LOADING, "by name")
        row = {"completion_id": "cmpl_1", "unit": "ann", "task": shelf.task, "status": "ok"}
        answer = [{**row, "response_text": SECRET}]
        lake.commit(lambda transaction: transaction.append("completions", answer))
    return house, version


def receipts(shelf: Shelf) -> list[dict[str, Any]]:
    with closing(open_lake(shelf.service, read_only=True)) as lake:
        found: list[dict[str, Any]] = lake.read(
            "SELECT * FROM erasures ORDER BY created_at"
        ).to_pylist()
        return found


def test_the_receipt_says_what_went_and_who_knows_it_still(shelf: Shelf, call: Call) -> None:
    house, version = filled(shelf)
    Workplace(shelf.service, _task(shelf)).open(fresh=True)
    code, told, _ = call("--unit", "ann", "--now", "--json")
    assert code == 0
    done = json.loads(told)
    assert done["removed"] == {"completions": 1, "snapshot_rows": 1, "training_texts": 4}
    expected = {"task": shelf.task, "version": "1", "state": "loading", "served": True}
    assert done["versions"] == [expected]
    assert done["left"] == []
    assert not [place for place, text in kept(house, version).items() if SECRET in text]
    assert not Workplace(shelf.service, _task(shelf)).folder.exists()
    (receipt,) = receipts(shelf)
    assert (receipt["kind"], receipt["outcome"]) == ("unit", "done")
    assert json.loads(receipt["removed"]) == done["removed"]
    assert not [value for value in receipt.values() if value in ("ann", SECRET)]
    # Again: nothing to do, nothing to write down, and the version is named as before.
    told = call("--unit", "ann")[1]
    assert told.startswith("ann: nothing was left\n")
    assert "version 1 learned from it (loading, is served) and knows it still" in told
    assert len(receipts(shelf)) == 1


def test_one_answer_is_found_in_the_version_that_was_taught_it(shelf: Shelf, call: Call) -> None:
    filled(shelf)
    assert "version 1 learned from it" in call("--completion", "cmpl_1")[1]
    assert call("--completion", "cmpl_9")[0] == 2


def test_a_training_under_way_is_named_and_left_alone(shelf: Shelf, call: Call) -> None:
    filled(shelf)
    place = Workplace(shelf.service, _task(shelf))
    place.open(fresh=True)
    with holding(shelf.service, shelf.task):
        code, told, _ = call("--unit", "ann")
    assert code == 0
    assert f"a training of {shelf.task} is under way" in told
    assert place.folder.exists()


def test_what_cannot_be_reached_is_done_the_next_time(
    shelf: Shelf, call: Call, mlflow_address: str
) -> None:
    house, version = filled(shelf)
    make_service(shelf.service.root)  # MLflow at a port where nobody is
    code, _, said = call("--unit", "ann")
    assert code == 4
    assert "MLflow" in said
    make_service(shelf.service.root, mlflow={"tracking_uri": mlflow_address})
    assert json.loads(call("--unit", "ann", "--json")[1])["removed"] == {"training_texts": 4}
    assert not [place for place, text in kept(house, version).items() if SECRET in text]
    first, second = receipts(shelf)
    assert first["outcome"].startswith("not finished: ")
    assert first["subject"] == second["subject"]


def test_nobody_is_erased_by_a_slip(call: Call, tmp_path: Path) -> None:
    for words in ((), ("--unit", ""), ("--unit", "a", "--completion", "b")):
        code, _, said = call(*words)
        assert code == 2, words
        assert "name --unit U or --completion ID" in said


def _task(shelf: Shelf) -> Any:
    from everlearn.task import load_task

    return load_task(shelf.service, shelf.task)

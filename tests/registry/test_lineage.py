"""What a version was made of and where a unit's rows went, against a real MLflow server."""

import json
import sys
from pathlib import Path

import pytest

from everlearn.cli import main
from registry.lineage import account
from registry.origin import base_digest, code_version
from registry.states import VersionState
from tests.registry.conftest import AT, ROWS, House, row


def test_a_version_tells_its_rows_its_program_and_its_base(house: House) -> None:
    house.version("aaaa", ROWS)
    told = account(house.shelf.registry, house.lake, house.shelf.task, "1")
    assert told.rows == {
        "train": {"accepted": 2, "replay": 1},
        "gate": {"accepted": 1},
        "dropped": {"no_consent": 1},
    }
    assert told.units == {"train": 2, "gate": 1, "dropped": 1}
    assert told.erased == 0
    assert (told.method, told.code, told.base["template"]) == ("sft", code_version(), "te11")
    assert told.settings == {"seed": "7", "learning_rate": "0.01"}
    assert told.parents == {"adapter": None, "replayed": "base"}
    assert [each["content_hash"] for each in told.snapshots] == ["c0ffee"]
    assert "trl " in (told.libraries or "")


def test_what_no_persons_word_stands_behind_is_told_apart(house: House) -> None:
    told = [{**row(1, "ann", kind="correction"), "author": who} for who in ("expert", "comment")]
    house.version("aaaa", told)
    found = account(house.shelf.registry, house.lake, house.shelf.task, "1")
    assert found.rows == {"train": {"correction": 1, "correction by comment": 1}}


def test_what_became_of_it_is_told_with_the_comparison_that_decided(house: House) -> None:
    house.version("aaaa", ROWS)
    registry, task = house.shelf.registry, house.shelf.task
    registry.tag(task, "1", gate="passed", gate_reason="gain 0.2 > 0")
    events = [
        {"event": event, "phase": phase, "percent": percent, "reason": event, "stage": 0}
        | {"release_id": "rel_1", "task": task, "version": "1"}
        | {"created_at": AT.replace(hour=hour)}
        for hour, (event, phase, percent) in enumerate(
            [("started", "loading", 0.0), ("step", "ramping", 25.0), ("rolled_back",) * 2 + (0.0,)]
        )
    ]
    house.lake.commit(lambda transaction: transaction.append("releases", events))
    told = account(registry, house.lake, task, "1")
    assert told.gate == {"phase": "passed", "reason": "gain 0.2 > 0"}
    (release,) = told.releases
    assert (release["phase"], release["percent"]) == ("rolled_back", 25.0)


def test_a_unit_finds_its_snapshots_and_whether_they_are_served(house: House) -> None:
    house.version("aaaa", ROWS)
    house.version("bbbb", [row(9, "cid"), row(10, "ann", "dropped")])
    house.shelf.registry.set_alias(house.shelf.task, "champion", "2")
    first, second = house.uses("ann")
    assert first.rows == {"train": 2, "dropped": 1}
    assert first.versions[0]["learned"]
    assert not first.versions[0]["served"]
    assert second.rows == {"dropped": 1}
    assert not second.versions[0]["learned"]
    assert second.versions[0]["served"]
    assert [use.versions[0]["learned"] for use in house.uses("cid")] == [False, True]
    assert house.uses("nobody") == []


def test_erased_rows_are_missed_and_the_version_that_knows_them_is_named(house: House) -> None:
    house.version("aaaa", ROWS)
    house.version("bbbb", [row(9, "cid")])
    house.shelf.registry.transition(house.shelf.task, "1", VersionState.LOADING, "by name")
    house.erase("ann")
    told = account(house.shelf.registry, house.lake, house.shelf.task, "1")
    assert told.erased == 3
    (use,) = house.uses("ann")
    assert use.erased
    assert use.rows == {"train": 2, "dropped": 1}
    assert (use.versions[0]["version"], use.versions[0]["served"]) == ("1", True)
    assert house.uses("nobody") == []
    assert not any(each.erased for each in house.uses("cid"))


def test_the_verb_finds_a_version_by_number_or_name_and_refuses_what_is_not_there(
    house: House, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    house.version("aaaa", ROWS)

    def call(*words: str) -> tuple[int, str, str]:
        config = str(house.shelf.service.root / "everlearn.yaml")
        monkeypatch.setattr(sys, "argv", ["everlearn", "lineage", *words, "--config", config])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return ended.value.code if isinstance(ended.value.code, int) else 0, *said

    code, text, _ = call("1")
    assert code == 0
    assert "train 3 rows of 2 units: 2 accepted, 1 replay" in text
    named = json.loads(call(f"{house.shelf.task}-aaaa", "--json")[1])
    assert (named["version"], named["rows"]["train"]["accepted"]) == ("1", 2)
    told = json.loads(call("--unit", "ann", "--json")[1])
    assert told["uses"][0]["versions"][0]["version"] == "1"
    assert "learned from them" in call("--unit", "ann")[1]
    house.erase("ann")
    house.shelf.registry.set_alias(house.shelf.task, "champion", "1")
    assert "erased, and still known to what is served" in call("--unit", "ann")[1]
    for words, complaint in (
        (("7",), "no version 7; there are: 1"),
        (("latest",), "no version 'latest'"),
        ((), "name a VERSION or --unit U"),
        (("1", "--unit", "ann"), "name a VERSION or --unit U"),
        (("1", "--task", "other"), "task 'other' does not exist"),
    ):
        code, _, said = call(*words)
        assert code == 2, words
        assert complaint in said
    assert "base" in call("base")[1]


def test_the_base_model_is_named_by_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"one")
    first = base_digest(str(tmp_path))
    assert first.startswith("sha256:")
    (tmp_path / "notes.md").write_text("not part of the model")
    assert base_digest(str(tmp_path)) == first
    (tmp_path / "model.safetensors").write_bytes(b"two")
    assert base_digest(str(tmp_path)) != first
    assert base_digest("nobody/has-this-model") == ""

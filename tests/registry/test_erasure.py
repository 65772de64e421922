"""What trainings kept of people's words goes when the lake has lost the rows."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from everlearn.cli import main
from everlearn.lake.ducklake import open_lake
from registry.erasure import PROBES, TABLE, redact, without_probes, without_texts
from registry.versions import ModelVersion
from tests.registry.conftest import House, Shelf, row

COLUMNS = ["step", "completion_id", "prompt", "completion", "reward", "reason", "runs"]
SECRET = "Ann Smith, 12 Elm Street"


@pytest.fixture
def house(shelf: Shelf) -> Iterator[House]:
    lake = open_lake(shelf.service)
    yield House(shelf, lake)
    lake.close()


def shown(number: int, text: str, step: int = 1) -> list[Any]:
    return [step, f"cmpl_{number}", text, f"dear {text}", 0.5, f"no table {text}", 1.0]


def probe(completion_id: str | None, text: str) -> dict[str, Any]:
    said = {"messages": [{"role": "user", "content": text}], "token_ids": [1], "logprobs": [-0.1]}
    return said if completion_id is None else {**said, "completion_id": completion_id}


def trained(house: House) -> ModelVersion:
    """A version whose run and adapter kept words of ann and bob."""
    version = house.version("aaaa", [row(1, "ann"), row(2, "bob")])
    client, run = house.shelf.registry.client, version.run_id
    assert run is not None
    assert version.path is not None
    data = [shown(1, SECRET), shown(2, "bob asks"), shown(1, SECRET, step=2)]
    client.log_dict(run, {"columns": COLUMNS, "data": data}, TABLE)
    probes = [probe("cmpl_1", SECRET), probe("cmpl_2", "bob asks"), probe("", "Hello")]
    for name in PROBES:
        client.log_text(run, json.dumps(probes), f"adapter/{name}")
        (version.path / name).write_text(json.dumps(probes))
    return version


def kept(house: House, version: ModelVersion) -> dict[str, str]:
    """Every text that MLflow and this machine have of the version, by place."""
    client, run = house.shelf.registry.client, str(version.run_id)
    found = {name: client.download_artifacts(run, f"adapter/{name}") for name in PROBES}
    found[TABLE] = client.download_artifacts(run, TABLE)
    assert version.path is not None
    there = {f"home {file.name}": file.read_text() for file in version.path.iterdir()}
    return {**there, **{name: Path(path).read_text() for name, path in found.items()}}


def test_a_person_who_is_erased_leaves_no_word_in_what_trainings_kept(house: House) -> None:
    version = trained(house)
    registry, tasks = house.shelf.registry, [house.shelf.task]
    assert redact(registry, house.lake, tasks) == []
    assert sum(SECRET in text for text in kept(house, version).values()) == 5

    house.erase("ann")
    done = redact(registry, house.lake, tasks)
    assert [(each.file, each.texts) for each in done] == [
        (TABLE, 2),
        ("adapter/probes.json", 1),
        ("adapter/base_probes.json", 1),
    ]
    left = kept(house, version)
    assert not [place for place, text in left.items() if SECRET in text]
    # The numbers stay, and what others said; a server can still be checked.
    rows = json.loads(left[TABLE])["data"]
    assert [each[0] for each in rows] == [1, 1, 2]
    assert rows[0] == [1, "cmpl_1", None, None, 0.5, None, 1.0]
    assert rows[1] == shown(2, "bob asks")
    for place in (*PROBES, *(f"home {name}" for name in PROBES)):
        assert [each["completion_id"] for each in json.loads(left[place])] == ["cmpl_2", ""]
    # Once more finds nothing to do.
    assert redact(registry, house.lake, tasks) == []


def test_the_command_says_what_it_took_out(
    house: House, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    version = trained(house)
    house.erase("ann")
    house.lake.close()

    def call(*words: str) -> str:
        config = ["--config", str(house.shelf.service.root / "everlearn.yaml")]
        monkeypatch.setattr("sys.argv", ["everlearn", "lineage", *words, *config])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 0
        return capsys.readouterr().out

    said = call("--redact")
    assert f"{house.shelf.task} run {version.run_id}: 2 in completions.json" in said
    assert call("--redact") == "no training kept a text of a row that the lake has lost\n"
    assert json.loads(call("--redact", "--json")) == []


def test_what_cannot_say_whose_it_is_counts_as_lost() -> None:
    table = {"columns": ["prompt", "reward"], "data": [["who?", 1.0]]}
    assert without_texts(table, {"cmpl_1"}) == ({**table, "data": [[None, 1.0]]}, 1)
    assert without_probes([probe(None, "who?"), probe("", "Hello")], set()) == [probe("", "Hello")]


def test_a_row_without_words_is_not_counted_again() -> None:
    table = {"columns": COLUMNS, "data": [[1, "cmpl_9", None, None, 0.5, None, 1.0]]}
    assert without_texts(table, set()) == (table, 0)

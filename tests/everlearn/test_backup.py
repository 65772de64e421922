"""A back-up: everything goes on from the copy, whatever was written while it was taken."""

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from collector.ledger import ledger, totals
from everlearn.backup import backup, elsewhere
from everlearn.config import Service, load
from everlearn.errors import InputError, LakeError
from everlearn.installation import heldout_salt
from everlearn.lake.columns import TABLES
from everlearn.lake.ducklake import DuckLake, open_lake
from everlearn.log.identity import worker_folders
from everlearn.state import open_state
from tests.builders import make_service
from tests.collector.events import collect, completions, fill_wal


def restored(folder: Path) -> Service:
    """A config elsewhere whose data folder is the copy."""
    return make_service(folder.parent, data_dir=folder.name)


def counts(lake: DuckLake) -> dict[str, int]:
    rows = {each.name: lake.read(f"SELECT count(*) AS n FROM {each.name}") for each in TABLES}
    return {name: table["n"][0].as_py() for name, table in rows.items()}


def commit(lake: DuckLake, number: int) -> None:
    """Fifty rows that say which commit they are of."""
    rows = [{"completion_id": f"{number}-{each}"} for each in range(50)]
    lake.commit(lambda transaction: transaction.append("completions", rows))


def test_everything_is_there_and_goes_on_and_no_number_is_used_twice(tmp_path: Path) -> None:
    service = make_service(tmp_path / "one")
    gateway = fill_wal(service, completions(30))
    salt = heldout_salt(service)
    with closing(open_state(service)) as state:
        state.put("traffic", "text2sql", {"champion": "7"})
    with closing(open_lake(service)) as lake:
        collect(service, lake)
        before = counts(lake)
    fill_wal(service, completions(2))  # not collected yet
    backup(service, tmp_path / "two" / "data")
    shutil.rmtree(tmp_path / "one")

    copy = restored(tmp_path / "two" / "data")
    assert heldout_salt(copy) == salt
    with closing(open_state(copy)) as state:
        assert state.get("traffic", "text2sql") == ({"champion": "7"}, 1)
    with closing(open_lake(copy)) as lake:
        assert counts(lake) == before
        again = fill_wal(copy, completions(3))
        assert again != gateway
        collect(copy, lake)
        assert counts(lake)["completions"] == 30 + 2 + 3
        account = totals(ledger(copy, lake))
        assert (account["acknowledged"], account["stored"]) == (35, 35)
        assert (account["missing"], account["duplicates"]) == (0, 0)


def test_a_gateway_on_the_copy_is_not_the_one_that_still_runs(tmp_path: Path) -> None:
    service = make_service(tmp_path / "one")
    gateway = fill_wal(service, completions(1))
    backup(service, tmp_path / "two" / "data")
    copy = restored(tmp_path / "two" / "data")
    first, second = fill_wal(copy, completions(1)), fill_wal(copy, completions(1))
    assert first == second != gateway
    assert fill_wal(service, completions(1)) == gateway
    assert {folder.name for folder in worker_folders(copy.wal_path)} == {gateway, first}


def test_one_that_is_taken_while_rows_are_written_holds_whole_commits(tmp_path: Path) -> None:
    service = make_service(tmp_path / "one")
    stop, written = threading.Event(), [0]
    with closing(open_lake(service)) as lake:

        def write() -> None:
            while not stop.is_set():
                commit(lake, written[0])
                written[0] += 1

        writer = threading.Thread(target=write)
        writer.start()
        try:
            command = (sys.executable, "-m", "everlearn", "backup", str(tmp_path / "two" / "data"))
            config = ("--config", str(tmp_path / "one" / "everlearn.yaml"))
            done = subprocess.run([*command, *config], capture_output=True, text=True, check=False)
        finally:
            stop.set()
            writer.join()
    assert done.returncode == 0, done.stderr
    with closing(open_lake(restored(tmp_path / "two" / "data"))) as lake:
        held = lake.read("SELECT completion_id FROM completions")["completion_id"].to_pylist()
    commits = len(held) // 50
    assert commits <= written[0]
    assert set(held) == {f"{number}-{each}" for number in range(commits) for each in range(50)}


def test_what_stands_in_a_database_s_own_log_is_in_the_copy(tmp_path: Path) -> None:
    service = make_service(tmp_path / "one")
    place = service.data_path / "mlflow" / "mlflow.db"
    place.parent.mkdir(parents=True)
    with closing(sqlite3.connect(place, isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("CREATE TABLE runs (run_id TEXT)")
        writer.execute("INSERT INTO runs VALUES ('r1')")
        backup(service, tmp_path / "two")
    with closing(sqlite3.connect(tmp_path / "two" / "mlflow" / "mlflow.db")) as copy:
        assert copy.execute("SELECT run_id FROM runs").fetchall() == [("r1",)]
    assert sorted(path.name for path in (tmp_path / "two" / "mlflow").iterdir()) == ["mlflow.db"]


def test_what_belongs_to_this_machine_alone_is_left_out(tmp_path: Path) -> None:
    service = make_service(tmp_path / "one")
    for name in ("console.token", "routes.lock", "logs/gateway.log", "adapters/a/weights"):
        (service.data_path / name).parent.mkdir(parents=True, exist_ok=True)
        (service.data_path / name).write_text("here")
    copied = backup(service, tmp_path / "two")
    there = [path for path in (tmp_path / "two").rglob("*") if path.is_file()]
    assert there == [tmp_path / "two" / "adapters" / "a" / "weights"]
    assert copied == (1, 4)
    assert os.stat(tmp_path / "two").st_mode & 0o077 == 0


@pytest.mark.parametrize("name", ["full", "file", "data/inside"])
def test_it_is_written_nowhere_else(tmp_path: Path, name: str) -> None:
    service = make_service(tmp_path, data_dir="data")
    fill_wal(service, completions(1))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "somebody's").touch()
    (tmp_path / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=name):
        backup(service, tmp_path / name)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_lake_that_lacks_a_file_is_no_back_up(tmp_path: Path) -> None:
    service = make_service(tmp_path / "one")
    with closing(open_lake(service)) as lake:
        rows = [{"completion_id": str(each)} for each in range(100)]
        lake.commit(lambda transaction: transaction.append("completions", rows))
    for path in (service.data_path / "lake" / "data").rglob("*.parquet"):
        path.unlink()
    with pytest.raises(LakeError, match=r"\.parquet: .*run the back-up again"):
        backup(service, tmp_path / "two")
    assert not (tmp_path / "two").exists()


def test_what_is_kept_elsewhere_is_said_without_its_password(tmp_path: Path) -> None:
    (tmp_path / "everlearn.yaml").write_text(
        yaml.safe_dump(
            {
                "bus": {"kind": "kafka"},
                "lake": {"catalog": "postgres:host=db password=hush", "data_path": "s3://lake"},
            }
        )
    )
    found = elsewhere(load(tmp_path / "everlearn.yaml"))
    assert found.keys() == {"lake.catalog", "lake.data_path", "bus"}
    assert "hush" not in str(found)

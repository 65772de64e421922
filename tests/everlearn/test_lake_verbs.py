"""`everlearn status`, `sql` and `maintain` as an operator calls them: real lake, real log."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from everlearn.config import Service
from everlearn.lake.ducklake import DuckLake, open_lake
from everlearn.log.wal import WalWriter
from tests.builders import make_feedback, make_service
from tests.collector.events import collect, column, completions, fill_wal

ROOT = Path(__file__).parents[2]
COUNT = "SELECT count(*) AS n FROM completions"


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return make_service(tmp_path)


def everlearn(service: Service, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """The verb as a process, over the service's config."""
    config = str(service.root / "everlearn.yaml")
    command = (sys.executable, "-m", "everlearn", *arguments, "--config", config)
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def answer(service: Service, *arguments: str) -> Any:
    """What it prints with --json."""
    done = everlearn(service, *arguments, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def stored(service: Service, sizes: Sequence[int] = (6,)) -> str:
    """Completions in the lake, one commit for each size, and a thumb; the gateway id."""
    lake = open_lake(service)
    gateway = ""
    for size in sizes:
        events = completions(size)
        gateway = fill_wal(service, events)
        collect(service, lake)
    fill_wal(service, [make_feedback(completion_id=events[0].completion_id)])
    collect(service, lake)
    lake.close()
    return gateway


def test_sql_gives_bytes_as_what_they_say_or_as_base64(service: Service) -> None:
    query = "SELECT 'häh'::BLOB AS text, '\\xFF\\x00'::BLOB AS bytes, ['a'::BLOB] AS inside"
    expected = {"text": "häh", "bytes": "/wA=", "inside": ["a"]}
    stored(service)
    assert answer(service, "sql", query.replace("häh", "h\\xC3\\xA4h")) == [expected]
    shown = everlearn(service, "sql", "SELECT raw_request FROM completions LIMIT 1").stdout
    assert '{"model":"text2sql"' in shown


def test_status_proves_what_is_stored_pending_and_dropped(tmp_path: Path) -> None:
    service = make_service(tmp_path, gateway={"capture": {"wal_max_bytes": 16384}})
    gateway = stored(service)
    wal = WalWriter(service.wal_path, 0, service.gateway.capture)
    kept = sum(wal.append(b"x" * 1000) is not None for _ in range(30))
    wal.close()
    report = answer(service, "status")
    capture = report["capture"]
    assert (capture["acknowledged"], capture["stored"], capture["pending"]) == (7 + kept, 7, kept)
    assert (capture["missing"], capture["duplicates"], capture["dropped"]) == (0, 0, 30 - kept)
    assert [row["gateway_id"] for row in capture["gateways"]] == [gateway]
    assert report["feedback"]["joined"] == 1
    shown = everlearn(service, "status")
    assert shown.returncode == 0
    lines = shown.stdout.splitlines()
    account = f"acknowledged {7 + kept}  stored 7  missing 0  duplicates 0  dropped {30 - kept}"
    assert lines[0].startswith(f"capture   {account}")
    assert lines[1].startswith(f"  {gateway}  {account}")
    assert lines[2].startswith("feedback  joined 1  orphans 0")


def test_status_of_a_lost_event_says_missing(service: Service) -> None:
    stored(service)
    lake = open_lake(service)
    lake.commit(lambda transaction: transaction.query("DELETE FROM completions WHERE seq = 2"))
    lake.close()
    capture = answer(service, "status")["capture"]
    assert (capture["stored"], capture["missing"], capture["pending"]) == (6, 1, 0)


def test_status_before_anything_was_captured(service: Service) -> None:
    capture = answer(service, "status")["capture"]
    assert (capture["acknowledged"], capture["missing"], capture["gateways"]) == (0, 0, [])
    assert everlearn(service, "status").returncode == 0


def test_sql_answers_as_json_and_as_a_table(service: Service) -> None:
    stored(service)
    sql = "SELECT task, count(*) AS n, max(error) AS error FROM completions GROUP BY task"
    assert answer(service, "sql", sql) == [{"task": "text2sql", "n": 6, "error": None}]
    shown = everlearn(service, "sql", sql)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout == "task      n  error\n--------  -  -----\ntext2sql  6\n"


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELEC 1", "not SQL: Parser Error"),
        ("SELECT nothing FROM completions", 'Referenced column "nothing" not found'),
        ("SELECT * FROM nowhere", "Table with name nowhere does not exist"),
        ("", "one SELECT is allowed, received nothing"),
        ("SELECT 1; SELECT 2", "one SELECT is allowed, received SELECT, SELECT"),
    ],
)
def test_wrong_sql_is_one_clear_line_and_exit_code_2(
    service: Service, query: str, said: str
) -> None:
    done = everlearn(service, "sql", query)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.startswith("everlearn: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM completions",
        "DROP TABLE completions",
        "INSERT INTO offsets (source) VALUES ('x')",
        "SELECT 1; DELETE FROM completions",
        "EXPLAIN ANALYZE INSERT INTO offsets (source) VALUES ('x')",
        "EXPLAIN ANALYZE DELETE FROM completions",
        "COPY completions TO 'stolen.csv'",
        "CALL ducklake_cleanup_old_files('lake', cleanup_all => true)",
    ],
)
def test_sql_never_writes(service: Service, query: str, exists: bool) -> None:
    """Nor on the first look, which makes the lake."""
    if exists:
        stored(service)
    done = everlearn(service, "sql", query)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    lake = open_lake(service)
    assert column(lake, "SELECT count(*) FROM offsets WHERE source = 'x'") == [0]
    assert column(lake, COUNT) == [6 if exists else 0]
    lake.close()


def files(lake: DuckLake) -> int:
    return len(lake.read("SELECT * FROM ducklake_list_files('lake', 'completions')"))


def test_maintain_merges_files_expires_snapshots_and_changes_no_row(service: Service) -> None:
    stored(service, sizes=(30, 25, 40, 35))
    lake = open_lake(service)
    before = lake.read("SELECT * FROM completions ORDER BY seq")
    assert files(lake) == 4
    assert column(lake, "SELECT count(*) FROM ducklake_snapshots('lake')")[0] > 4
    lake.close()
    # A query that began before may still read what was merged.
    assert answer(service, "maintain") == {"snapshots_expired": 0, "files_deleted": 0}
    done = answer(service, "maintain", "--keep-hours", "0")
    assert done["snapshots_expired"] > 4
    assert done["files_deleted"] >= 4
    lake = open_lake(service)
    assert files(lake) == 1
    assert lake.read("SELECT * FROM completions ORDER BY seq") == before
    lake.close()
    shown = everlearn(service, "maintain", "--keep-hours", "0")
    assert shown.returncode == 0
    assert shown.stdout.startswith("snapshots_expired ")


def test_maintain_beside_a_collector_that_writes(service: Service) -> None:
    gateway = stored(service, sizes=(30, 30))
    children = [
        subprocess.Popen(
            (sys.executable, "-m", "everlearn", "maintain", "--keep-hours", "0", "--config",
             str(service.root / "everlearn.yaml")),
            cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    lake, written = open_lake(service), 61
    while any(child.poll() is None for child in children):
        fill_wal(service, completions(25))
        collect(service, lake)
        written += 25
    for child in children:
        _, said = child.communicate(timeout=30)
        assert (child.returncode, said) == (0, "")
    capture = answer(service, "status")["capture"]
    assert (capture["stored"], capture["missing"], capture["duplicates"]) == (written, 0, 0)
    assert capture["gateways"][0]["gateway_id"] == gateway
    lake.close()


def test_a_lake_that_cannot_be_reached_is_one_clear_line(tmp_path: Path) -> None:
    service = make_service(
        tmp_path, lake={"catalog": "postgres:host=127.0.0.1 port=1 user=x dbname=x"}
    )
    for verb in (("status",), ("sql", COUNT), ("maintain",)):
        done = everlearn(service, *verb)
        assert (done.returncode, done.stdout) == (4, "")
        assert "Connection refused" in done.stderr
        assert len(done.stderr.splitlines()) == 1

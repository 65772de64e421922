"""The lake: tables on first use, transactions, two processes at once, feedback that counts."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from collector.batch import Batch
from collector.compact import LARGE_BYTES, compact
from everlearn.config import Service
from everlearn.errors import LakeError
from everlearn.events import Completion, Feedback, encode
from everlearn.lake.ducklake import APPENDED, MERGED, DuckLake, open_lake
from everlearn.lake.transaction import DuckTransaction
from everlearn.log.bus import Record
from tests.builders import make_completion, make_feedback, make_service

T0 = 1_800_000_000.0


def store(lake: DuckLake, *events: Completion | Feedback) -> None:
    """Write events as the collector does."""
    records = [Record("test", 1, "gw-test-w0", 0, encode(event)) for event in events]

    def work(transaction: DuckTransaction) -> None:
        for name, rows in Batch(records).tables():
            transaction.append(name, rows)

    lake.commit(work)


def joined(lake: DuckLake) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = lake.read(
        "SELECT * FROM feedback_joined ORDER BY received_at, feedback_id"
    ).to_pylist()
    return rows


def states(lake: DuckLake) -> dict[str, str]:
    rows = lake.read("SELECT feedback_id, state FROM feedback_state").to_pylist()
    return {row["feedback_id"]: row["state"] for row in rows}


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return make_service(tmp_path)


@pytest.fixture
def lake(service: Service) -> DuckLake:
    return open_lake(service)


def files_are_written(lake: DuckLake) -> dict[str, str]:
    sql = "SELECT option_name, value FROM ducklake_options('lake') WHERE scope_entry IS NOT NULL"
    return {row["option_name"]: row["value"] for row in lake.read(sql).to_pylist()}


def test_completions_are_appended_plain_also_after_a_compaction(lake: DuckLake) -> None:
    assert files_are_written(lake) == APPENDED
    lake.write_files(MERGED)
    assert files_are_written(lake) == MERGED
    compact(lake, LARGE_BYTES)
    assert files_are_written(lake) == APPENDED


def test_a_lake_takes_the_threads_it_is_told(service: Service) -> None:
    lake = open_lake(service, threads=1)
    assert lake.read("SELECT current_setting('threads') AS n")["n"].to_pylist() == [1]


def test_a_column_added_by_a_newer_everlearn_is_added_to_an_old_lake(
    service: Service, lake: DuckLake
) -> None:
    lake.commit(lambda transaction: transaction.run("ALTER TABLE scores DROP COLUMN label"))
    lake.close()
    again = open_lake(service)
    assert "label" in again.read("SELECT * FROM scores").column_names


def test_a_catalog_of_a_newer_version_is_a_clear_error(service: Service, lake: DuckLake) -> None:
    lake.close()
    with sqlite3.connect(service.data_path / "lake" / "catalog.sqlite") as catalog:
        catalog.execute("UPDATE ducklake_metadata SET value = '99.0' WHERE key = 'version'")
    catalog.close()
    with pytest.raises(LakeError, match="99"):
        open_lake(service)


def test_a_catalog_that_is_no_catalog_is_a_clear_error(tmp_path: Path) -> None:
    service = make_service(tmp_path, lake={"catalog": "sqlite:rubbish.sqlite"})
    (tmp_path / "rubbish.sqlite").write_bytes(b"this is no database" * 100)
    with pytest.raises(LakeError, match="rubbish"):
        open_lake(service)


def test_feedback_finds_its_completion_by_every_name(lake: DuckLake) -> None:
    completion = make_completion(request_id="req-1", conversation_id="conv-1", received_at=T0)
    store(lake, completion)
    store(
        lake,
        make_feedback(completion_id=completion.completion_id, author_id="a"),
        make_feedback(completion_id="chatcmpl-1", author_id="b"),
        make_feedback(request_id="req-1", author_id="c"),
        make_feedback(conversation_id="conv-1", author_id="d"),
    )
    rows = joined(lake)
    assert {row["author_id"] for row in rows} == {"a", "b", "c", "d"}
    assert {row["completion_id"] for row in rows} == {completion.completion_id}
    assert {(row["task"], row["version"], row["arm"], row["unit"]) for row in rows} == {
        ("text2sql", "base", "champion", "user-1")
    }


def test_feedback_that_comes_before_its_completion_joins_when_that_arrives(lake: DuckLake) -> None:
    completion = make_completion()
    early = make_feedback(completion_id=completion.completion_id)
    store(lake, early)
    assert states(lake) == {early.feedback_id: "orphan"}
    store(lake, completion)
    assert states(lake) == {early.feedback_id: "joined"}


def test_a_shared_upstream_id_means_the_latest_before_and_is_ambiguous(lake: DuckLake) -> None:
    first, second, third = (make_completion(received_at=T0 + k * 10) for k in range(3))
    store(lake, third, first, second)
    store(lake, make_feedback(completion_id="chatcmpl-1", received_at=T0 + 15))
    (row,) = joined(lake)
    assert row["completion_id"] == second.completion_id
    assert row["ambiguous"] is True


def test_our_own_id_is_never_ambiguous(lake: DuckLake) -> None:
    first, second = make_completion(), make_completion()
    store(lake, first, second, make_feedback(completion_id=first.completion_id))
    (row,) = joined(lake)
    assert (row["completion_id"], row["ambiguous"]) == (first.completion_id, False)


def test_shadow_answers_and_refused_requests_take_no_feedback_by_a_shared_name(
    lake: DuckLake,
) -> None:
    shown = make_completion(request_id="r", received_at=T0)
    shadow = make_completion(request_id="r", received_at=T0 + 1, status="shadow")
    refused = make_completion(request_id="r", received_at=T0 + 2, status="rejected")
    store(lake, shown, shadow, refused, make_feedback(request_id="r", received_at=T0 + 5))
    assert [row["completion_id"] for row in joined(lake)] == [shown.completion_id]


def permuted(events: list[Feedback], order: str) -> list[Feedback]:
    return {"in order": events, "late": events[::-1]}[order]


@pytest.mark.parametrize("order", ["in order", "late"])
def test_the_later_word_of_an_author_supersedes_the_earlier(lake: DuckLake, order: str) -> None:
    completion = make_completion()
    target = {"completion_id": completion.completion_id}
    later = {"author_id": "a", "received_at": T0 + 9}
    up = make_feedback(**target, **later, value_bool=True, occurred_at=T0 + 1)
    down = make_feedback(**target, **later, value_bool=False, occurred_at=T0 + 2)
    other = make_feedback(**target, author_id="b", value_bool=True, occurred_at=T0)
    store(lake, *permuted([other, up, down], order), completion)
    assert states(lake) == {
        **{other.feedback_id: "joined", down.feedback_id: "joined"},
        up.feedback_id: "superseded",
    }


@pytest.mark.parametrize("order", ["in order", "late"])
def test_a_retraction_takes_back_what_was_said_before_it(lake: DuckLake, order: str) -> None:
    completion = make_completion()
    target = {"completion_id": completion.completion_id, "author_id": "a", "received_at": T0 + 9}
    up = make_feedback(**target, occurred_at=T0 + 1)
    back = make_feedback(**target, kind="retraction", value_bool=None, occurred_at=T0 + 2)
    again = make_feedback(**target, value_bool=False, occurred_at=T0 + 3)
    store(lake, *permuted([up, back, again], order), completion)
    assert states(lake) == {
        **{up.feedback_id: "retracted", back.feedback_id: "retraction"},
        again.feedback_id: "joined",
    }


def test_a_retraction_of_another_author_or_name_changes_nothing(lake: DuckLake) -> None:
    completion = make_completion()
    target = {"completion_id": completion.completion_id}
    up = make_feedback(**target, author_id="a", received_at=T0)
    later = {"kind": "retraction", "value_bool": None, "received_at": T0 + 1}
    store(lake, completion, up, make_feedback(**target, author_id="b", **later))
    store(lake, make_feedback(**target, author_id="a", name="tone", **later))
    assert states(lake)[up.feedback_id] == "joined"


def test_the_same_again_under_an_idempotency_key_counts_once(lake: DuckLake) -> None:
    completion = make_completion()
    target = {"completion_id": completion.completion_id, "author_id": "a", "idempotency_key": "k"}
    first = make_feedback(**target, received_at=T0)
    repeated = make_feedback(**target, received_at=T0 + 1)
    stranger = make_feedback(**{**target, "author_id": "b"})
    elsewhere = make_feedback(**target, key_id="another", received_at=T0 - 1)
    store(lake, completion, repeated, first, stranger, elsewhere)
    assert states(lake) == {
        **{first.feedback_id: "joined", repeated.feedback_id: "duplicate"},
        **{stranger.feedback_id: "joined", elsewhere.feedback_id: "superseded"},
    }


@pytest.mark.parametrize("order", ["in order", "late"])
def test_another_word_under_the_same_idempotency_key_is_a_change(
    lake: DuckLake, order: str
) -> None:
    completion = make_completion()
    target = {"completion_id": completion.completion_id, "author_id": "a", "idempotency_key": "k"}
    words = [
        make_feedback(**target, value_bool=value, received_at=T0 + at)
        for at, value in enumerate([True, False, False, True])
    ]
    store(lake, completion, *permuted(words, order))
    assert [states(lake)[each.feedback_id] for each in words] == [
        *("superseded", "superseded", "duplicate", "joined"),
    ]


def test_a_time_later_than_its_arrival_is_not_believed(lake: DuckLake) -> None:
    completion = make_completion()
    target = {"completion_id": completion.completion_id, "author_id": "a"}
    fast = make_feedback(**target, received_at=T0, occurred_at=T0 + 18_000)
    change = make_feedback(**target, received_at=T0 + 60, value_bool=False)
    older = make_feedback(**target, received_at=T0 + 90, occurred_at=T0 - 90)
    store(lake, completion, fast, change, older)
    assert states(lake) == {
        **{fast.feedback_id: "superseded", older.feedback_id: "superseded"},
        change.feedback_id: "joined",
    }
    back = make_feedback(**target, received_at=T0 + 61, kind="retraction", value_bool=None)
    store(lake, back)
    assert states(lake)[change.feedback_id] == "retracted"


def test_a_key_speaks_of_its_own_tasks_only(lake: DuckLake) -> None:
    completion = make_completion()
    target = {"completion_id": completion.completion_id, "author": "expert"}
    other = make_feedback(**target, key_id="e", key_tasks="support,other")
    own = make_feedback(**target, key_id="e", key_tasks="support,text2sql", author_id="ann")
    orphan = make_feedback(completion_id="unknown", key_id="e", key_tasks="support")
    store(lake, completion, other, own, orphan)
    assert states(lake) == {
        **{other.feedback_id: "not_allowed", own.feedback_id: "joined"},
        orphan.feedback_id: "orphan",
    }
    assert [row["author_id"] for row in joined(lake)] == ["ann"]


def test_without_an_id_the_key_is_the_rater(lake: DuckLake) -> None:
    completion = make_completion()
    target = {"completion_id": completion.completion_id}
    said = make_feedback(**target, key_id="browser", received_at=T0)
    back = make_feedback(
        **target, key_id="another", received_at=T0 + 1, kind="retraction", value_bool=None
    )
    store(lake, completion, said, back)
    assert states(lake)[said.feedback_id] == "joined"


def test_a_correction_and_a_thumb_of_the_same_author_both_count(lake: DuckLake) -> None:
    completion = make_completion()
    target = {"completion_id": completion.completion_id, "author_id": "a", "author": "expert"}
    thumb = make_feedback(**target, value_bool=False)
    fix = make_feedback(**target, kind="correction", value_bool=None, value_text="SELECT 1")
    store(lake, completion, thumb, fix)
    assert set(states(lake).values()) == {"joined"}


def test_a_preference_keeps_the_answer_that_lost(lake: DuckLake) -> None:
    better, worse = make_completion(), make_completion()
    ids = {
        "completion_id": better.completion_id,
        "other_completion_id": worse.completion_id,
    }
    store(lake, better, worse, make_feedback(**ids, kind="preference", value_bool=None))
    (row,) = joined(lake)
    assert row["other_completion_id"] == worse.completion_id


def test_the_catalog_stays_open_while_a_lake_is_and_no_longer(tmp_path: Path) -> None:
    lake = open_lake(make_service(tmp_path))
    catalog = tmp_path / ".everlearn" / "lake" / "catalog.sqlite"
    for name in ("a", "b", "c"):
        row = {"snapshot_id": name}
        lake.commit(partial(DuckTransaction.append, table="snapshots", rows=[row]))
        # Nobody was the last one: SQLite's log and its index are where they were.
        assert catalog.with_name("catalog.sqlite-wal").exists()
        assert catalog.with_name("catalog.sqlite-shm").exists()
    reader = open_lake(make_service(tmp_path), read_only=True)
    reader.close()
    assert lake.read("SELECT count(*) AS n FROM snapshots")["n"].to_pylist() == [3]
    lake.close()
    assert not catalog.with_name("catalog.sqlite-wal").exists()
    locks = Path("/proc/locks").read_text()
    assert f":{catalog.stat().st_ino} " not in locks


def test_a_lake_that_is_open_keeps_nobody_from_folding_sqlites_log_into_the_catalog(
    tmp_path: Path,
) -> None:
    """Otherwise the log grows for as long as a process lives, and every read looks through it."""
    service = make_service(tmp_path)
    with closing(open_lake(service)) as lake, closing(open_lake(service, read_only=True)) as reader:
        offset = {"source": "s", "position": 0}
        lake.commit(lambda transaction: transaction.append("offsets", [offset]))
        assert reader.read("SELECT position FROM offsets").num_rows == 1
        assert reader.snapshot_id() == lake.snapshot_id()
        (catalog,) = tmp_path.rglob("catalog.sqlite")
        # In a process of its own: SQLite's locks do not hold within one.
        program = (
            "import sqlite3, sys; catalog = sqlite3.connect(sys.argv[1]); "
            "print(catalog.execute('PRAGMA wal_checkpoint(TRUNCATE)').fetchone())"
        )
        told = subprocess.run(
            [sys.executable, "-c", program, str(catalog)],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert told.stdout.strip() == "(0, 0, 0)"
        assert catalog.with_name("catalog.sqlite-wal").stat().st_size == 0
        assert reader.read("SELECT position FROM offsets").num_rows == 1

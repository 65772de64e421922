"""The lake: tables on first use, transactions, two processes at once, feedback that counts."""

import multiprocessing
import sqlite3
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from collector.batch import read_batch
from everlearn.bus import Record
from everlearn.columns import TABLES
from everlearn.config import Service
from everlearn.ducklake import DuckLake, DuckTransaction, open_lake
from everlearn.errors import InputError, LakeError
from everlearn.events import Completion, Feedback, encode
from everlearn.schema import VIEWS
from tests.builders import make_completion, make_feedback, make_service

T0 = 1_800_000_000.0


def store(lake: DuckLake, *events: Completion | Feedback) -> None:
    """Write events as the collector does."""
    records = [Record("test", 1, "gw-test-w0", 0, encode(event)) for event in events]

    def work(transaction: DuckTransaction) -> None:
        for name, table in read_batch(records).tables().items():
            transaction.append(name, table)

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


def test_every_table_and_view_stands_after_the_first_open(lake: DuckLake) -> None:
    for table in TABLES:
        assert lake.read(f"SELECT * FROM {table.name}").column_names == list(table.names)
    for view in VIEWS:
        assert lake.read(f"SELECT count(*) AS n FROM {view}").to_pylist() == [{"n": 0}]


def test_rows_come_back_typed(lake: DuckLake) -> None:
    row = {
        "completion_id": "c1",
        "received_at": T0,
        "messages": [{"role": "user", "content": "hé"}],
        "stream": True,
        "prompt_token_ids": [1, 2],
        "logprobs": [-0.5, None],
        "raw_request": b"\0\xff",
    }
    lake.commit(lambda transaction: transaction.append("completions", [row]))
    sql = (
        "SELECT completion_id, received_at, messages->0->>'content' AS said, stream, "
        "prompt_token_ids, logprobs, raw_request, task FROM completions"
    )
    assert lake.read(sql).to_pylist() == [
        {
            **{"completion_id": "c1", "received_at": datetime.fromtimestamp(T0, UTC)},
            **{"said": "hé", "stream": True, "prompt_token_ids": [1, 2]},
            **{"logprobs": [-0.5, None], "raw_request": b"\0\xff", "task": None},
        }
    ]


def test_an_unknown_column_or_table_is_refused_and_nothing_written(lake: DuckLake) -> None:
    def work(transaction: DuckTransaction) -> None:
        transaction.append("offsets", [{"source": "a", "position": 1}])
        transaction.append("offsets", [{"sauce": "a"}])

    with pytest.raises(InputError, match="offsets has no column sauce"):
        lake.commit(work)
    with pytest.raises(InputError, match="no table 'offset'"):
        lake.commit(lambda transaction: transaction.append("offset", []))
    assert lake.read("SELECT * FROM offsets").num_rows == 0


def test_a_transaction_reads_its_own_rows_and_can_update(lake: DuckLake) -> None:
    def work(transaction: DuckTransaction) -> list[dict[str, Any]]:
        transaction.append("offsets", [{"source": "a", "position": 1}])
        transaction.query("UPDATE offsets SET position = ? WHERE source = ?", [7, "a"])
        return transaction.query("SELECT position FROM offsets")

    assert lake.commit(work) == [{"position": 7}]


def test_a_snapshot_can_be_read_later_as_it_was(lake: DuckLake) -> None:
    store(lake, make_completion())
    snapshot = lake.snapshot_id()
    store(lake, make_completion())
    sql = "SELECT count(*) AS n FROM completions"
    assert lake.read(f"{sql} AT (VERSION => {snapshot})").to_pylist() == [{"n": 1}]
    assert lake.read(sql).to_pylist() == [{"n": 2}]


def test_a_reader_cannot_write(service: Service, lake: DuckLake) -> None:
    reader = open_lake(service, read_only=True)
    with pytest.raises(LakeError, match="read-only"):
        reader.read("DELETE FROM completions")
    with pytest.raises(LakeError, match="for reading only"):
        reader.commit(lambda transaction: None)


def test_a_reader_may_come_first(service: Service) -> None:
    reader = open_lake(service, read_only=True)
    assert reader.read("SELECT * FROM feedback_joined").num_rows == 0


def test_a_bad_query_is_a_lake_error_with_the_reason(lake: DuckLake) -> None:
    with pytest.raises(LakeError, match="no_such_table"):
        lake.read("SELECT * FROM no_such_table")


def count_up(service: Service, times: int) -> None:
    lake = open_lake(service)
    for _ in range(times):
        lake.commit(
            lambda transaction: transaction.query(
                "UPDATE offsets SET position = position + 1 WHERE source = 'n'"
            )
        )


def test_processes_that_write_the_same_row_lose_no_update(service: Service, lake: DuckLake) -> None:
    row = {"source": "n", "position": 0}
    lake.commit(lambda transaction: transaction.append("offsets", [row]))
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=count_up, args=(service, 15))
    process.start()
    count_up(service, 15)
    process.join(60)
    assert process.exitcode == 0
    assert lake.read("SELECT position FROM offsets").to_pylist() == [{"position": 30}]


def test_threads_of_one_process_may_share_a_lake(lake: DuckLake) -> None:
    threads = [threading.Thread(target=store, args=(lake, make_completion())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert lake.read("SELECT * FROM completions").num_rows == 8


def test_a_failed_work_leaves_nothing_and_its_error_passes_through(lake: DuckLake) -> None:
    def work(transaction: DuckTransaction) -> None:
        transaction.append("offsets", [{"source": "a", "position": 1}])
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        lake.commit(work)
    assert lake.read("SELECT * FROM offsets").num_rows == 0


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
    up = make_feedback(**target, author_id="a", value_bool=True, occurred_at=T0 + 1)
    down = make_feedback(**target, author_id="a", value_bool=False, occurred_at=T0 + 2)
    other = make_feedback(**target, author_id="b", value_bool=True, occurred_at=T0)
    store(lake, *permuted([other, up, down], order), completion)
    assert states(lake) == {
        **{other.feedback_id: "joined", down.feedback_id: "joined"},
        up.feedback_id: "superseded",
    }


@pytest.mark.parametrize("order", ["in order", "late"])
def test_a_retraction_takes_back_what_was_said_before_it(lake: DuckLake, order: str) -> None:
    completion = make_completion()
    target = {"completion_id": completion.completion_id, "author_id": "a"}
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


def test_the_same_idempotency_key_counts_once(lake: DuckLake) -> None:
    completion = make_completion()
    target = {"completion_id": completion.completion_id, "author_id": "a"}
    first = make_feedback(**target, idempotency_key="k", received_at=T0)
    repeated = make_feedback(**target, idempotency_key="k", value_bool=False, received_at=T0 + 1)
    stranger = make_feedback(
        completion_id=completion.completion_id, author_id="b", idempotency_key="k"
    )
    store(lake, completion, repeated, first, stranger)
    assert states(lake) == {
        **{first.feedback_id: "joined", repeated.feedback_id: "duplicate"},
        stranger.feedback_id: "joined",
    }


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

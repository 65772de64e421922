"""What every form of the lake must do: SQLite and a folder, Postgres and S3."""

import threading
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from collector.collect import Collector, Stored, positions
from collector.compact import maintain
from collector.wal_source import WalSource
from everlearn.config import Collector as Limits
from everlearn.config import Service
from everlearn.errors import InputError, LakeError
from everlearn.lake.columns import TABLES
from everlearn.lake.ducklake import DuckLake, open_lake
from everlearn.lake.schema import VIEWS
from everlearn.lake.transaction import DuckTransaction
from tests.builders import make_completion, make_feedback
from tests.collector.events import collect, column, completions, fill_wal

T0 = 1_800_000_000.0


def insert_completion(lake: DuckLake) -> None:
    row = {"completion_id": "c", "received_at": T0}
    lake.commit(lambda transaction: transaction.append("completions", [row]))


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


def test_a_stream_of_rows_is_one_append(lake: DuckLake) -> None:
    schema = pa.schema([("source", pa.string()), ("position", pa.int64())])
    columns = [{"source": [f"s{n}"] * 3, "position": range(n, n + 3)} for n in (0, 3)]
    chunks = [pa.record_batch(column, schema=schema) for column in columns]

    def write(*parts: pa.RecordBatch) -> None:
        reader = pa.RecordBatchReader.from_batches(schema, iter(parts))
        lake.commit(lambda transaction: transaction.append("offsets", reader))

    write(*chunks)
    write()
    assert lake.read("SELECT position FROM offsets ORDER BY 1")["position"].to_pylist() == [
        *range(6)
    ]
    odd = pa.RecordBatchReader.from_batches(pa.schema([("sauce", pa.string())]), [])
    with pytest.raises(InputError, match="offsets has no column sauce"):
        lake.commit(lambda transaction: transaction.append("offsets", odd))


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
    insert_completion(lake)
    snapshot = lake.snapshot_id()
    insert_completion(lake)
    sql = "SELECT count(*) AS n FROM completions"
    assert lake.read(f"{sql} AT (VERSION => {snapshot})").to_pylist() == [{"n": 1}]
    assert lake.read(sql).to_pylist() == [{"n": 2}]


def test_a_reader_cannot_write(service: Service, lake: DuckLake) -> None:
    reader = open_lake(service, read_only=True)
    with pytest.raises(LakeError, match="read-only"):
        reader.read("DELETE FROM completions")
    with pytest.raises(LakeError, match="for reading only"):
        reader.commit(lambda transaction: None)


def test_a_bad_query_is_a_lake_error_with_the_reason(lake: DuckLake) -> None:
    with pytest.raises(LakeError, match="no_such_table"):
        lake.read("SELECT * FROM no_such_table")


def test_threads_of_one_process_may_share_a_lake(lake: DuckLake) -> None:
    threads = [threading.Thread(target=insert_completion, args=(lake,)) for _ in range(8)]
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


def test_every_table_and_view_stands_after_the_first_open(lake: DuckLake) -> None:
    for table in TABLES:
        assert lake.read(f"SELECT * FROM {table.name}").column_names == list(table.names)
    for view in VIEWS:
        assert lake.read(f"SELECT count(*) AS n FROM {view}").to_pylist() == [{"n": 0}]


def test_a_reader_may_come_first(service: Service) -> None:
    reader = open_lake(service, read_only=True)
    assert reader.read("SELECT * FROM feedback_joined").num_rows == 0


@pytest.mark.parametrize("processes", [2, 3])
def test_writers_of_the_same_row_lose_no_update(
    service: Service, lake: DuckLake, processes: int
) -> None:
    row = {"source": "n", "position": 0}
    lake.commit(lambda transaction: transaction.append("offsets", [row]))
    sql = "UPDATE offsets SET position = position + 1 WHERE source = 'n'"

    def count_up(own: DuckLake) -> None:
        for _ in range(8):
            own.commit(lambda transaction: transaction.query(sql))

    lakes = [open_lake(service) for _ in range(processes)]
    threads = [threading.Thread(target=count_up, args=(own,)) for own in lakes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert column(lake, "SELECT position FROM offsets WHERE source = 'n'") == [8 * processes]


def test_collectors_that_race_store_every_event_once(service: Service, lake: DuckLake) -> None:
    gateway = fill_wal(service, completions(120))
    lakes = [lake, open_lake(service)]
    limits = Limits(max_batch_rows=10)
    collectors = [Collector(WalSource(service.wal_path), own, limits) for own in lakes]
    batches: list[Stored] = []
    threads = [
        threading.Thread(target=each.run, args=(lambda: True, batches.append))
        for each in collectors
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert column(lake, "SELECT count(*) FROM completions") == [120]
    assert column(lake, "SELECT count(DISTINCT seq) FROM completions") == [120]
    assert sum(batch.rows for batch in batches) == 120
    assert positions(lake) == {f"wal/{gateway}": 121}


def test_maintenance_changes_no_row_and_keeps_frozen_snapshots(
    service: Service, lake: DuckLake
) -> None:
    for size in (30, 5, 25):
        fill_wal(service, completions(size))
        collect(service, lake)
    frozen = lake.snapshot_id()
    snapshot = {"snapshot_id": "s", "lake_snapshot": frozen}
    lake.commit(lambda transaction: transaction.append("snapshots", [snapshot]))
    lake.commit(lambda transaction: transaction.query("DELETE FROM completions WHERE seq > 50"))
    rows = lake.read("SELECT * FROM completions ORDER BY seq")
    done = maintain(lake, keep_hours=0.0)
    assert done["snapshots_expired"] > 0
    assert lake.read("SELECT * FROM completions ORDER BY seq") == rows
    version = f"SELECT count(*) FROM completions AT (VERSION => {frozen})"
    assert column(lake, version) == [60]
    assert maintain(lake, keep_hours=0.0)["snapshots_expired"] <= 20
    assert column(lake, version) == [60]


def test_feedback_joins_whichever_came_first(service: Service, lake: DuckLake) -> None:
    completion = make_completion()
    early = make_feedback(completion_id=completion.completion_id, author_id="a")
    fill_wal(service, [early])
    collect(service, lake)
    assert column(lake, "SELECT state FROM feedback_state") == ["orphan"]
    late = make_feedback(completion_id=completion.completion_id, author_id="b")
    fill_wal(service, [completion, late])
    collect(service, lake)
    rows = column(lake, "SELECT completion_id FROM feedback_joined")
    assert rows == [completion.completion_id] * 2

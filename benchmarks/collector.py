"""WAL to lake, embedded: rate per core beside a plain DuckDB append and a plain Parquet write of
the same rows, and the delay from answer to queryable row."""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.delay import RATE, p99_seconds
from benchmarks.figures import figure
from benchmarks.traffic import event, fill, temporary_service
from collector.batch import Batch
from collector.collect import Collector, Stored
from collector.process import LAKE_THREADS, open_source, settle_memory
from everlearn.lake.ducklake import open_lake
from everlearn.log.bus import Record

BATCHES = 4


def collector_rate() -> float:
    """Events per second of processor time, decoding, writing and committing included."""
    with temporary_service() as service:
        rows = service.collector.max_batch_rows
        fill(service, BATCHES * rows)
        lake = open_lake(service, threads=LAKE_THREADS)
        collector = Collector(open_source(service, lake), lake, service.collector)
        rates: list[float] = []
        while True:
            stored: list[Stored] = []
            started = time.process_time()
            if not collector.step(0.0, stored.append):
                break
            rates.append(stored[0].rows / (time.process_time() - started))
        lake.close()
        return max(rates)


def us(work: Callable[[], object], count: int) -> float:
    """Microseconds of processor time per event, the best of three."""
    times = []
    for _ in range(3):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times) / count * 1e6


def parts() -> dict[str, Any]:
    """Where the time goes: microseconds per event of each step, one step after the other."""
    with temporary_service() as service:
        count = service.collector.max_batch_rows
        fill(service, count)
        lake = open_lake(service, threads=LAKE_THREADS)
        source = open_source(service, lake)

        def read() -> list[Record]:
            source.seek({})
            found: list[Record] = []
            while more := source.poll(count, 2**30, 0.0):
                found += more
            return found

        records = read()
        table = completions(records)
        took = {
            "read": us(read, count),
            "decode_to_arrow": us(lambda: completions(records), count),
            "insert_and_commit": us(
                lambda: lake.commit(lambda lent: lent.append("completions", table)), count
            ),
        }
        lake.close()
    return {f"us_{name}": round(value, 1) for name, value in took.items()}


def completions(records: Sequence[Record]) -> pa.Table:
    """The completions of these records, decoded."""
    _, rows = next(Batch(records).tables())
    return rows.read_all()


def peers() -> dict[str, Any]:
    """Rows per second and core of an append to plain DuckDB, and of a Parquet file."""
    count = 20_000
    records = [Record("wal/gw-a-w0", seq, "gw-a-w0", seq, event()) for seq in range(1, count + 1)]
    table = completions(records)
    with tempfile.TemporaryDirectory(dir=".", prefix=".bench-") as name:
        connection = duckdb.connect(str(Path(name) / "plain.duckdb"))
        connection.execute(f"SET threads = {LAKE_THREADS}")
        connection.register("batch", table)
        connection.execute("CREATE TABLE completions AS FROM batch LIMIT 0")
        took = {
            "plain_duckdb_append": us(
                lambda: connection.execute("INSERT INTO completions FROM batch"), count
            ),
            "plain_parquet_write": us(
                lambda: pq.write_table(table, str(Path(name) / "plain.parquet")), count
            ),
        }
        connection.close()
    return {name: round(1e6 / value) for name, value in took.items()}


def main() -> None:
    """Measure and print."""
    settle_memory()
    value = collector_rate()
    more = {"goal": 50_000, **parts(), **peers()}
    figure("collector_embedded", value, "events/s/core", **more)
    with temporary_service() as service:
        figure(
            *("answer_to_queryable_p99_embedded", p99_seconds(service, ["collect"]), "s"),
            goal=2,
            requests_per_second=RATE,
        )


if __name__ == "__main__":
    main()

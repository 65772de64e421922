"""WAL to lake, embedded: rate per core beside a plain DuckDB append and a plain Parquet write of
the same rows, and the delay from answer to queryable row."""

import gc
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.delay import RATE, p99_seconds
from benchmarks.figures import figure
from benchmarks.traffic import event, fill, temporary_service
from collector.batch import read_batch
from collector.collect import Collector, Stored
from collector.process import open_source
from everlearn.bus import Record
from everlearn.ducklake import open_lake

BATCHES = 4


def collector_rate() -> float:
    """Events per second of processor time, decoding, writing and committing included."""
    with temporary_service() as service:
        rows = service.collector.max_batch_rows
        fill(service, BATCHES * rows)
        lake = open_lake(service)
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


def rows_of(count: int) -> pa.Table:
    """The completions table of `count` events."""
    records = [Record("wal/gw-a-w0", seq, "gw-a-w0", seq, event()) for seq in range(1, count + 1)]
    return read_batch(records).tables()["completions"]


def rate(work: Callable[[], object], count: int) -> float:
    """Rows per second of processor time, the best of three."""
    times = []
    for _ in range(3):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return count / min(times)


def peers() -> tuple[float, float]:
    """Rows per second and core of an append to plain DuckDB, and of a Parquet file."""
    table = rows_of(20_000)
    with tempfile.TemporaryDirectory(dir=".", prefix=".bench-") as name:
        connection = duckdb.connect(str(Path(name) / "plain.duckdb"))
        connection.register("batch", table)
        connection.execute("CREATE TABLE completions AS FROM batch LIMIT 0")
        appended = rate(
            lambda: connection.execute("INSERT INTO completions FROM batch"), table.num_rows
        )
        connection.close()
        written = rate(
            lambda: pq.write_table(table, str(Path(name) / "plain.parquet")), table.num_rows
        )
    return appended, written


def main() -> None:
    """Measure and print."""
    # As the collector's process does.
    gc.set_threshold(500_000, 20, 100)
    value = collector_rate()
    appended, written = peers()
    figure(
        *("collector_embedded", value, "events/s/core"),
        goal=50_000,
        plain_duckdb_append=round(appended),
        plain_parquet_write=round(written),
    )
    with temporary_service() as service:
        figure(
            *("answer_to_queryable_p99_embedded", p99_seconds(service, ["collect"]), "s"),
            goal=2,
            requests_per_second=RATE,
        )


if __name__ == "__main__":
    main()

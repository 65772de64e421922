"""The lake at rest: bytes per million completions of 2 KB, and a count over ten million rows."""

import time
from pathlib import Path

from benchmarks.figures import figure
from benchmarks.traffic import fill, temporary_service
from collector.collect import Collector
from collector.compact import maintain
from collector.process import open_source
from everlearn.lake.ducklake import open_lake

SAMPLE = 40_000
ROWS = 10_000_000

GENERATE = f"""
INSERT INTO completions (completion_id, gateway_id, seq, task, version, arm, unit, received_at,
    latency_ms, status, http_status, prompt_tokens, completion_tokens)
SELECT 'cmpl_' || n, 'gw-a-w0', n, 'task-' || n % 5, n // 500000, 'champion', 'user-' || n % 9973,
    TIMESTAMPTZ '2026-01-01 00:00:00+00' + to_seconds(n // 10), random() * 1000, 'ok', 200,
    n % 500, n % 300
FROM range({ROWS}) AS numbers(n)"""

COUNT = """
SELECT task, version, date_trunc('day', received_at) AS day, count(*)
FROM completions GROUP BY ALL"""


def size_of(folder: Path) -> int:
    """Bytes of the Parquet files."""
    return sum(path.stat().st_size for path in folder.rglob("*.parquet"))


def main() -> None:
    """Measure and print."""
    with temporary_service() as service:
        lake = open_lake(service)
        fill(service, SAMPLE)
        collector = Collector(open_source(service, lake), lake, service.collector)
        collector.run(lambda: True, lambda batch: None)
        data = service.data_path / "lake" / "data"
        plain = size_of(data)
        maintain(lake, keep_hours=0.0)
        figure(
            *("lake_size_per_million_2kb", size_of(data) / SAMPLE, "MB"),
            before_compaction=round(plain / SAMPLE),
        )
        lake.close()
    with temporary_service() as service:
        lake = open_lake(service)
        lake.commit(lambda transaction: transaction.run(GENERATE))
        times = []
        for _ in range(3):
            started = time.perf_counter()
            groups = lake.read(COUNT).num_rows
            times.append(time.perf_counter() - started)
        figure("count_over_10_million", max(times), "s", goal=2, groups=groups, rows=ROWS)
        lake.close()


if __name__ == "__main__":
    main()

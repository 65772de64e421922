"""`everlearn collect` and `everlearn ship` as processes, by what their metric ports say."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from everlearn.config import Service
from everlearn.lake.ducklake import DuckLake
from everlearn.log.wal import WalWriter
from tests.builders import make_feedback, make_service
from tests.collector.events import column, completions, fill_wal
from tests.kafka.broker import Broker
from tests.scrape import scrape, value

ROOT = Path(__file__).parents[2]
ROWS = "everlearn_collector_rows_total"
DEAD = "everlearn_collector_dead_letters_total"
REPEATED = "everlearn_collector_repeated_total"
SHIPPED = "everlearn_shipper_records_total"
BATCHES = "everlearn_collector_batch_seconds"
LAST = "everlearn_collector_last_commit_timestamp_seconds"


@pytest.fixture
def ports(free_port: Callable[[], int]) -> tuple[int, int]:
    return free_port(), free_port()


@pytest.fixture
def service(tmp_path: Path, ports: tuple[int, int]) -> Service:
    return make_service(tmp_path, **settings(ports))


def settings(ports: tuple[int, int], **bus: Any) -> dict[str, Any]:
    shipper, collector = ports
    return {
        "bus": {"metrics_port": shipper, **bus},
        "collector": {"metrics_port": collector},
    }


@contextmanager
def process(service: Service, verb: str) -> Iterator[None]:
    """`everlearn VERB` for the length of the context; it ends with 0 on SIGTERM."""
    config = str(service.root / "everlearn.yaml")
    command = (sys.executable, "-m", "everlearn", verb, "--config", config)
    with (service.root / f"{verb}.log").open("ab") as log:
        child = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    try:
        yield
    finally:
        child.terminate()
        code = child.wait(30)
    assert code == 0, (service.root / f"{verb}.log").read_text()[-2000:]


def reached(port: int, name: str, expected: float) -> str:
    """The scrape in which a metric has come to a value; it never goes beyond."""
    deadline, found = time.monotonic() + 60, -1.0
    while True:
        try:
            text = scrape(port)
            found = value(text, name)
        except OSError:
            text = ""
        assert found <= expected
        if found == expected:
            return text
        assert time.monotonic() < deadline, (name, found, expected)
        time.sleep(0.1)


def append_garbage(service: Service) -> None:
    wal = WalWriter(service.wal_path, 0, service.gateway.capture)
    assert wal.append(b"garbage") is not None
    wal.close()


def test_the_collectors_port_counts_rows_dead_letters_and_commits(
    service: Service, lake: DuckLake, ports: tuple[int, int]
) -> None:
    fill_wal(service, [*completions(7), make_feedback(completion_id="c")])
    append_garbage(service)
    started = time.time()
    with process(service, "collect"):
        reached(ports[1], ROWS, 8)
        text = reached(ports[1], DEAD, 1)
        assert value(text, REPEATED) == 0
        batches, stored_at = value(text, f"{BATCHES}_count"), value(text, LAST)
        assert 0 <= value(text, f"{BATCHES}_sum") < 5
        assert started <= stored_at <= time.time()
        fill_wal(service, completions(5))
        reached(ports[1], ROWS, 13)
        deadline = time.monotonic() + 20
        # The time of a commit is set last, so all else has been counted then.
        while value(text := scrape(ports[1]), LAST) <= stored_at:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert value(text, f"{BATCHES}_count") > batches
        assert (value(text, ROWS), value(text, DEAD), value(text, REPEATED)) == (13, 1, 0)
        assert value(text, LAST) <= time.time()
    assert column(lake, "SELECT count(*) FROM completions") == [12]
    assert column(lake, "SELECT count(*) FROM dead_letters") == [1]


def test_the_shippers_port_counts_what_kafka_acknowledged_and_the_collectors_what_is_repeated(
    tmp_path: Path, broker: Broker, ports: tuple[int, int], lake: DuckLake
) -> None:
    service = make_service(tmp_path, **settings(ports, **broker.bus(partitions=2)))
    gateway = fill_wal(service, completions(20))
    with ExitStack() as stack:
        stack.enter_context(process(service, "collect"))
        with process(service, "ship"):
            reached(ports[0], SHIPPED, 20)
            fill_wal(service, completions(5))
            reached(ports[0], SHIPPED, 25)
            reached(ports[1], ROWS, 25)
        # What it had freed is gone; the newest segment is not, and is sent again.
        (service.wal_path / gateway / "shipped").unlink()
        with process(service, "ship"):
            reached(ports[0], SHIPPED, 5)
        text = reached(ports[1], REPEATED, 5)
        assert value(text, ROWS) == 25
        assert value(text, DEAD) == 0
    assert column(lake, "SELECT count(*) FROM completions") == [25]

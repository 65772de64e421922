"""A lake that is away, or that another collector writes to: waited for, repeated, nothing lost."""

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from collector.collect import Collector, Stored
from collector.ledger import ledger
from collector.wal_source import WalSource
from everlearn.config import Service
from everlearn.errors import LakeError
from everlearn.events import encode
from everlearn.lake.ducklake import open_lake
from everlearn.lake.store import Transaction
from everlearn.log.bus import Record
from tests.builders import make_completion, make_service
from tests.collector.events import column, completions, fill_wal
from tests.postgres import Postgres, postgres

COUNT = "SELECT count(*) FROM completions"
DISTINCT = "SELECT count(DISTINCT seq) FROM completions"


def nothing(batch: Stored) -> None:
    """Take note of nothing."""


@pytest.fixture
def server() -> Iterator[Postgres]:
    """A server that a test may stop."""
    with postgres() as server:
        yield server


@pytest.fixture
def service(tmp_path: Path, server: Postgres) -> Service:
    capture = {"segment_bytes": 4096}
    catalog = server.catalog(server.database())
    return make_service(tmp_path, lake={"catalog": catalog}, gateway={"capture": capture})


def test_a_batch_that_met_no_lake_is_read_again_before_what_follows_it(
    service: Service, server: Postgres
) -> None:
    lake = open_lake(service)
    collector = Collector(WalSource(service.wal_path), lake, service.collector)
    fill_wal(service, completions(5))
    server.stop()
    for _ in range(2):
        with pytest.raises(LakeError):
            collector.step(0.0, nothing)
    fill_wal(service, completions(5))
    server.start()
    while collector.step(0.0, nothing):
        pass
    assert column(lake, COUNT) == column(lake, DISTINCT) == [10]
    lake.close()


def test_a_collector_waits_for_a_lake_that_is_away_and_loses_nothing(
    service: Service, server: Postgres
) -> None:
    lake = open_lake(service)
    stopped, written = threading.Event(), 0
    collector = Collector(WalSource(service.wal_path), lake, service.collector)
    runs = threading.Thread(target=collector.run, args=(stopped.is_set, nothing))
    runs.start()

    def write_for(seconds: float) -> int:
        until, count = time.monotonic() + seconds, 0
        while time.monotonic() < until:
            fill_wal(service, completions(5))
            count += 5
            time.sleep(0.05)
        return count

    try:
        written += write_for(1.0)
        server.stop()
        written += write_for(4.0)
        server.start()
        written += write_for(1.0)
        deadline = time.monotonic() + 30
        while column(lake, COUNT) != [written]:
            assert runs.is_alive()
            assert time.monotonic() < deadline, (column(lake, COUNT), written)
            time.sleep(0.2)
    finally:
        stopped.set()
        runs.join(30)
    (account,) = ledger(service, lake)
    assert (account.stored, account.missing, account.duplicates) == (written, 0, 0)
    lake.close()


class Overtaken(Collector):
    """Another collector stores the same batch between our first writing and our commit."""

    other: Collector
    tries = 0

    def _write(
        self, transaction: Transaction, records: Sequence[Record], reached: dict[str, int]
    ) -> Stored:
        self.tries += 1
        done = super()._write(transaction, records, reached)
        if self.tries == 1:
            assert self.other.step(0.0, nothing)
        return done


@pytest.mark.parametrize("before", [0, 3])
def test_of_two_collectors_that_store_the_same_batch_the_second_repeats_and_drops_it(
    service: Service, before: int
) -> None:
    """With nothing before, the source is new to the lake: there is no row of it to conflict on."""
    lakes = [open_lake(service), open_lake(service)]
    ours = Overtaken(WalSource(service.wal_path), lakes[0], service.collector)
    other = ours.other = Collector(WalSource(service.wal_path), lakes[1], service.collector)
    if before:
        fill_wal(service, completions(before))
        ours.tries = 1
        ours.step(0.0, nothing)
        other.step(0.0, nothing)
        ours.tries = 0
    fill_wal(service, completions(6))
    batches: list[Stored] = []
    ours.step(0.0, batches.append)
    assert ours.tries == (3 if before else 2)
    assert [(batch.rows, batch.repeated) for batch in batches] == [(0, 6)]
    assert column(lakes[0], COUNT) == column(lakes[0], DISTINCT) == [before + 6]
    for lake in lakes:
        lake.close()


def records(partition: int, start: int, seqs: Sequence[int]) -> list[Record]:
    return [
        Record(f"topic/{partition}", start + place, "gw-a-w0", seq, encode(make_completion()))
        for place, seq in enumerate(seqs)
    ]


def test_what_another_collector_has_stored_and_a_shipper_sends_again_is_dropped_by_the_next_owner(
    service: Service,
) -> None:
    """The partition has moved here, and our own have shown lower numbers only."""
    lakes = [open_lake(service), open_lake(service)]
    other, ours = (
        Collector(WalSource(service.wal_path), lake, service.collector) for lake in lakes
    )
    ours.store(records(1, 0, [1, 2, 3]))
    other.store(records(0, 0, [4, 5, 6]))
    done = ours.store(records(0, 3, [5, 6, 7]))
    assert (done.rows, done.repeated) == (1, 2)
    assert column(lakes[0], COUNT) == column(lakes[0], DISTINCT) == [7]
    for lake in lakes:
        lake.close()


def test_a_partition_that_comes_back_within_a_batch_is_stored_once(service: Service) -> None:
    """The group took it and gave it back: it is read from the lake's position again."""
    lake = open_lake(service)
    collector = Collector(WalSource(service.wal_path), lake, service.collector)
    first = [*records(0, 0, [1, 2]), Record("topic/0", 2, "", 0, b"garbage", "not ours")]
    collector.store([*first, *first[:1]])
    collector.store([*first[1:], *records(0, 3, [3])])
    assert column(lake, COUNT) == [3]
    assert column(lake, "SELECT count(*) FROM dead_letters") == [1]
    lake.close()

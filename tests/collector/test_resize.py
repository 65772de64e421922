"""A topic that grows while events are sent twice: each has one partition, and one row."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka import errors as kafka_errors

from collector.collect import Collector, positions
from collector.kafka_source import KafkaSource
from collector.ship import Shipper
from collector.shipped import Shipped, shipped_positions
from collector.topic import ensure_topic
from everlearn.config import Service
from everlearn.lake.ducklake import DuckLake
from everlearn.log.bus import Record
from tests.builders import make_service
from tests.collector.events import column, completions, fill_wal
from tests.kafka.broker import Broker

BEFORE, AFTER = 2, 7


@pytest.fixture
def service(tmp_path: Path, broker: Broker) -> Service:
    service = make_service(tmp_path, bus=broker.bus(partitions=BEFORE))
    assert ensure_topic(service.bus, lambda: False)
    return service


class Killed(Exception):
    """The shipper is gone between Kafka's word and its own note."""


class Dying(Shipper):
    """Dies when everything is acknowledged and nothing noted."""

    def _send(self, records: Sequence[Record], reached: Mapping[str, int]) -> None:
        super()._send(records, reached)
        raise Killed


class Stumbling(Shipper):
    """Loses its connection once, when everything was sent; the topic grows before it is back."""

    stumbled = False

    def _send(self, records: Sequence[Record], reached: Mapping[str, int]) -> None:
        super()._send(records, reached)
        if not self.stumbled:
            self.stumbled = True
            grow(self._bus.topic, str(self._bus.bootstrap_servers[0]))
            raise kafka_errors.KafkaConnectionError("away")


def grow(topic: str, address: str) -> None:
    admin = KafkaAdminClient(bootstrap_servers=address)
    try:
        admin.create_partitions({topic: AFTER})
        deadline = time.monotonic() + 20
        while len(admin.describe_topics([topic])[0]["partitions"]) < AFTER:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        admin.close()


def places(service: Service, messages: int) -> dict[int, list[int]]:
    """Per sequence number, the partitions of its messages."""
    consumer = KafkaConsumer(
        bootstrap_servers=list(service.bus.bootstrap_servers), auto_offset_reset="earliest"
    )
    consumer.assign([TopicPartition(service.bus.topic, n) for n in range(AFTER)])
    found: dict[int, list[int]] = {}
    deadline = time.monotonic() + 30
    try:
        while sum(map(len, found.values())) < messages:
            assert time.monotonic() < deadline, found
            for items in consumer.poll(500).values():
                for item in items:
                    number = int(dict(item.headers)["seq"])
                    found.setdefault(number, []).append(item.partition)
    finally:
        consumer.close()
    return found


def stored_once(service: Service, lake: DuckLake, count: int) -> None:
    source = KafkaSource(service.bus, lambda: positions(lake))
    collector = Collector(source, lake, service.collector)
    sql = "SELECT count(DISTINCT seq) FROM completions"
    deadline = time.monotonic() + 30
    while column(lake, sql) != [count]:
        assert time.monotonic() < deadline
        collector.step(0.5, lambda batch: None)
    while collector.step(1.0, lambda batch: None):
        pass
    source.close()
    assert column(lake, "SELECT count(*) FROM completions") == [count]


def test_what_a_dead_shipper_had_sent_goes_again_to_where_it_went(
    service: Service, lake: DuckLake
) -> None:
    gateway = fill_wal(service, completions(40))
    dying = Dying(service.wal_path, service.bus)
    with pytest.raises(Killed):
        dying.step(0.0)
    dying.close()
    assert shipped_positions(service.wal_path) == {f"wal/{gateway}": 1}
    grow(service.bus.topic, service.bus.bootstrap_servers[0])
    shipper = Shipper(service.wal_path, service.bus)
    assert shipper.step(0.0) == 40
    fill_wal(service, completions(60))
    assert shipper.step(0.0) == 60
    shipper.close()
    found = places(service, 40 + 40 + 60)
    assert all(len(found[seq]) == 2 and len(set(found[seq])) == 1 for seq in range(1, 41))
    assert {found[seq][0] for seq in range(1, 41)} == {0, 1}
    assert len({found[seq][0] for seq in range(41, 101)}) > BEFORE, "new events use the new ones"
    stored_once(service, lake, 100)


def test_a_shipper_that_lost_its_connection_sends_again_to_where_it_had_sent(
    service: Service, lake: DuckLake
) -> None:
    fill_wal(service, completions(40))
    shipper = Stumbling(service.wal_path, service.bus)
    assert shipper.step(0.0) == 0
    assert shipper.step(0.0) == 40
    shipper.close()
    found = places(service, 80)
    assert all(len(found[seq]) == 2 and len(set(found[seq])) == 1 for seq in range(1, 41))
    stored_once(service, lake, 40)


def spread(root: Path, partitions: int, reached: int | None = None) -> int:
    """What a shipper that starts now does; with `reached` it has Kafka's word for it."""
    shipped, (source,) = Shipped(root), [f"wal/{path.name}" for path in root.glob("gw-*")]
    (count,) = shipped.spread([source], partitions).values()
    if reached is not None:
        shipped.sending({source: reached})
        shipped.acknowledged({source: reached})
    return count


def test_new_partitions_are_taken_up_once_all_that_was_sent_is_acknowledged(
    tmp_path: Path,
) -> None:
    service = make_service(tmp_path)
    fill_wal(service, completions(10))
    root = service.wal_path
    assert spread(root, 2, reached=4) == 2
    assert spread(root, 3) == 2, "numbers 4 to 10 may have been sent"
    assert spread(root, 3, reached=8) == 2, "a part of them still"
    assert spread(root, 3, reached=11) == 2
    assert spread(root, 3) == 3
    assert spread(root, 2) == 2, "a topic made anew with fewer partitions has no others"


def test_a_source_that_was_never_shipped_counts_the_partitions_of_now(tmp_path: Path) -> None:
    service = make_service(tmp_path)
    gateway = fill_wal(service, completions(10))
    assert spread(service.wal_path, 5) == 5
    assert (service.wal_path / gateway / "shipped").read_text() == "1 5"


def test_a_note_without_partitions_is_of_an_older_shipper(tmp_path: Path) -> None:
    service = make_service(tmp_path)
    gateway = fill_wal(service, completions(10))
    (service.wal_path / gateway / "shipped").write_text("7")
    assert shipped_positions(service.wal_path) == {f"wal/{gateway}": 7}
    assert spread(service.wal_path, 4) == 4
    assert (service.wal_path / gateway / "shipped").read_text() == "7 4"

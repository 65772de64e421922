"""What Kafka's tools say of the collectors' group; the lake's positions stay the truth."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.errors import KafkaConnectionError
from kafka.structs import OffsetAndMetadata

from collector.collect import Collector, positions
from collector.kafka_source import KafkaSource, source_of
from collector.ship import Shipper
from collector.topic import ensure_topic
from everlearn.config import Service
from everlearn.lake.ducklake import DuckLake
from tests.builders import make_service
from tests.collector.events import column, completions, fill_wal
from tests.kafka.broker import Broker

COUNT = "SELECT count(*) FROM completions"


@pytest.fixture
def service(tmp_path: Path, broker: Broker) -> Service:
    service = make_service(tmp_path, bus=broker.bus(partitions=3))
    assert ensure_topic(service.bus, lambda: False)
    return service


@pytest.fixture
def admin(broker: Broker) -> Iterator[KafkaAdminClient]:
    client = KafkaAdminClient(bootstrap_servers=broker.address)
    yield client
    client.close()


def ship(service: Service, count: int) -> None:
    fill_wal(service, completions(count))
    shipper = Shipper(service.wal_path, service.bus)
    while shipper.step(0.0):
        pass
    shipper.close()


def collect_until(service: Service, lake: DuckLake, count: int) -> KafkaSource:
    """Collect until so many completions are stored; the source still stands in the group."""
    source = KafkaSource(service.bus, lambda: positions(lake))
    step_until(Collector(source, lake, service.collector), lake, count)
    return source


def step_until(collector: Collector, lake: DuckLake, count: int) -> None:
    deadline = time.monotonic() + 30
    while column(lake, COUNT) != [count]:
        assert time.monotonic() < deadline, column(lake, COUNT)
        collector.step(0.5, lambda batch: None)


def told(admin: KafkaAdminClient, service: Service) -> dict[str, int]:
    """The group's offsets, as `kafka-consumer-groups.sh --describe` shows them."""
    group = admin.list_group_offsets(service.bus.group)[service.bus.group]
    return {source_of(*partition): offset.offset for partition, offset in group.items()}


def ends(service: Service) -> dict[str, int]:
    consumer = KafkaConsumer(bootstrap_servers=list(service.bus.bootstrap_servers))
    try:
        found = consumer.end_offsets([TopicPartition(service.bus.topic, n) for n in range(3)])
        return {source_of(*partition): end for partition, end in found.items() if end}
    finally:
        consumer.close()


def test_the_group_hears_how_far_the_lake_is_while_collecting(
    service: Service, lake: DuckLake, admin: KafkaAdminClient
) -> None:
    ship(service, 60)
    source = collect_until(service, lake, 60)
    try:
        deadline = time.monotonic() + 20
        while told(admin, service) != positions(lake):
            assert time.monotonic() < deadline, (told(admin, service), positions(lake))
            source.poll(10, 1000, 0.2)
        assert told(admin, service) == ends(service), "the lag is 0"
    finally:
        source.close()


def test_a_collector_that_leaves_has_told_of_its_last_batch(
    service: Service, lake: DuckLake, admin: KafkaAdminClient
) -> None:
    ship(service, 40)
    collect_until(service, lake, 40).close()
    assert told(admin, service) == positions(lake) == ends(service)


def test_what_the_group_says_never_moves_a_collector(
    service: Service, lake: DuckLake, admin: KafkaAdminClient
) -> None:
    """An operator's tool has set the group to the end; the lake knows better."""
    ship(service, 50)
    end = {
        TopicPartition(service.bus.topic, int(source.rpartition("/")[2])): OffsetAndMetadata(offset)
        for source, offset in ends(service).items()
    }
    admin.alter_group_offsets(service.bus.group, end)
    collect_until(service, lake, 50).close()
    assert column(lake, "SELECT count(DISTINCT seq) FROM completions") == [50]
    assert told(admin, service) == positions(lake)


def members(broker: Broker, service: Service) -> list[str]:
    client = KafkaAdminClient(bootstrap_servers=broker.address)
    try:
        group = client.describe_groups([service.bus.group])[service.bus.group]
        return [member["member_id"] for member in group["members"]]
    finally:
        client.close()


def test_a_broker_that_comes_back_finds_the_collector_still_a_member(
    tmp_path: Path, lake: DuckLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new member would have to wait until the session of the old one has ended."""
    broker = Broker(tmp_path / "kafka")
    broker.start()
    try:
        service = make_service(tmp_path, bus=broker.bus(partitions=3))
        assert ensure_topic(service.bus, lambda: False)
        source = KafkaSource(service.bus, lambda: positions(lake))
        collector = Collector(source, lake, service.collector)
        ship(service, 20)
        step_until(collector, lake, 20)
        before = members(broker, service)
        broker.kill()
        with monkeypatch.context() as patch:
            # As it does now and then, depending on what it was about to do.
            patch.setattr(KafkaConsumer, "poll", refused)
            assert not collector.step(0.1, lambda batch: None)
        until = time.monotonic() + 5
        while time.monotonic() < until:
            assert not collector.step(0.5, lambda batch: None)
        broker.start()
        ship(service, 10)
        step_until(collector, lake, 30)
        assert members(broker, service) == before
        source.close()
    finally:
        broker.kill()


def refused(*_: object, **__: object) -> None:
    raise KafkaConnectionError("111 ECONNREFUSED")

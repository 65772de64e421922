"""What every form of the event log must do: the gateways' WAL folders, and Kafka."""

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from collector.kafka_source import KafkaSource
from collector.ship import Shipper
from collector.topic import ensure_topic
from collector.wal_source import WalSource
from everlearn.config import Service
from everlearn.events import encode
from everlearn.log.bus import EventSource, Record
from everlearn.log.wal import WalWriter
from tests.builders import make_completion, make_service
from tests.kafka.broker import Broker


class WalLog:
    """Events straight from the folders."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def source(self) -> EventSource:
        return WalSource(self.service.wal_path)

    def append(self, payloads: Sequence[bytes], worker: int = 0) -> str:
        wal = WalWriter(self.service.wal_path, worker, self.service.gateway.capture)
        for payload in payloads:
            wal.append(payload)
        wal.close()
        return wal.gateway_id


class KafkaLog(WalLog):
    """The same events by way of a shipper."""

    def __init__(self, service: Service) -> None:
        super().__init__(service)
        self.stored: dict[str, int] = {}

    def source(self) -> EventSource:
        return KafkaSource(self.service.bus, lambda: self.stored)

    def append(self, payloads: Sequence[bytes], worker: int = 0) -> str:
        gateway_id = super().append(payloads, worker)
        shipper = Shipper(self.service.wal_path, self.service.bus)
        while shipper.step(0.0):
            pass
        shipper.close()
        return gateway_id


@pytest.fixture(params=["wal", "kafka"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> WalLog:
    if request.param == "wal":
        return WalLog(make_service(tmp_path))
    broker: Broker = request.getfixturevalue("broker")
    service = make_service(tmp_path, bus=broker.bus(partitions=3))
    assert ensure_topic(service.bus, lambda: False)
    return KafkaLog(service)


@pytest.fixture
def source(log: WalLog) -> Iterator[EventSource]:
    source = log.source()
    yield source
    source.close()


def take(source: EventSource, count: int, max_records: int = 1000) -> list[Record]:
    """At least `count` records, waiting for them up to 20 s."""
    found: list[Record] = []
    deadline = time.monotonic() + 20
    while len(found) < count and time.monotonic() < deadline:
        found += source.poll(max_records, 10**9, 0.5)
    assert len(found) >= count
    return found


def payloads(count: int, conversation: str | None = None) -> list[bytes]:
    return [encode(make_completion(conversation_id=conversation)) for _ in range(count)]


def test_every_event_comes_with_its_gateway_and_number(log: WalLog, source: EventSource) -> None:
    sent = payloads(20)
    gateway = log.append(sent)
    records = take(source, 20)
    assert sorted(record.seq for record in records) == list(range(1, 21))
    assert {record.gateway_id for record in records} == {gateway}
    assert {record.payload for record in records} == set(sent)
    assert all(record.error is None for record in records)


def test_positions_rise_within_a_source(log: WalLog, source: EventSource) -> None:
    log.append(payloads(30))
    last: dict[str, int] = {}
    for record in take(source, 30, max_records=7):
        assert record.position > last.get(record.source, -1)
        last[record.source] = record.position


def test_one_conversation_stays_in_order(log: WalLog, source: EventSource) -> None:
    sent = payloads(10, conversation="c-1")
    mixed = [item for pair in zip(sent, payloads(10), strict=True) for item in pair]
    log.append(mixed)
    read = [record.payload for record in take(source, 20) if record.payload in set(sent)]
    assert read == sent


def test_with_nothing_there_poll_ends_after_its_timeout(source: EventSource) -> None:
    source.poll(10, 1000, 0.0)
    started = time.monotonic()
    assert list(source.poll(10, 1000, 0.3)) == []
    assert 0.2 < time.monotonic() - started < 5


def test_poll_gives_no_more_records_than_asked_for(log: WalLog, source: EventSource) -> None:
    log.append(payloads(10))
    deadline = time.monotonic() + 20
    sizes: list[int] = []
    while sum(sizes) < 10 and time.monotonic() < deadline:
        sizes.append(len(source.poll(4, 10**9, 0.5)))
    assert sum(sizes) == 10
    assert max(sizes) <= 4


def test_a_seek_goes_on_at_the_positions_named_and_at_the_beginning_of_others(
    log: WalLog, source: EventSource
) -> None:
    log.append(payloads(12))
    first = take(source, 12)
    by_source: dict[str, list[Record]] = {}
    for record in first:
        by_source.setdefault(record.source, []).append(record)
    name, records = max(by_source.items(), key=lambda item: len(item[1]))
    source.seek({name: records[-1].position})
    again = take(source, 12 - len(records) + 1)
    assert [record.seq for record in again if record.source == name] == [records[-1].seq]
    assert {record.seq for record in again} == {record.seq for record in first} - {
        record.seq for record in records[:-1]
    }


def test_what_is_committed_may_go_and_reading_goes_on(log: WalLog, source: EventSource) -> None:
    log.append(payloads(5))
    records = take(source, 5)
    source.committed({record.source: record.position + 1 for record in records})
    log.append(payloads(3))
    assert sorted(record.seq for record in take(source, 3)) == [6, 7, 8]


def flip_payload_byte(log: WalLog, gateway: str, index: int) -> None:
    (path,) = (log.service.wal_path / gateway).glob("*.wal")
    data = bytearray(path.read_bytes())
    offset = 0
    for _ in range(index):
        offset += 16 + int.from_bytes(data[offset : offset + 4], "big")
    data[offset + 20] ^= 0xFF
    path.write_bytes(data)
    # Not written to for a while: what is no record is damaged, not on its way.
    os.utime(path, (0, 0))


def test_a_damaged_record_comes_with_its_error_and_the_rest_follows(
    log: WalLog, source: EventSource
) -> None:
    gateway = WalLog.append(log, payloads(4))
    flip_payload_byte(log, gateway, 1)
    log.append([])
    records = sorted(take(source, 4), key=lambda record: record.seq)
    assert [record.error is None for record in records] == [True, False, True, True]
    assert [record.seq for record in records] == [1, 2, 3, 4]
    assert "damaged" in str(records[1].error)

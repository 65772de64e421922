"""Kafka's own ways to go wrong: garbage, refusals, rebalances, a shipper that dies."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka import KafkaAdminClient
from kafka.admin import NewTopic

from collector.backlog import UNKNOWN
from collector.collect import Collector, Stored, positions
from collector.kafka_backlog import read_backlog
from collector.kafka_source import KafkaSource
from collector.ledger import ledger
from collector.ship import SEND_SECONDS, Shipper, open_producer, publish_counts
from collector.shipped import shipped_positions
from collector.topic import ensure_topic, message_key, partition_of
from everlearn.config import Service
from everlearn.errors import ConfigError
from everlearn.events import encode
from everlearn.lake.ducklake import DuckLake
from everlearn.log.bus import Record
from everlearn.state import open_state
from tests.builders import make_completion, make_feedback, make_service
from tests.collector.events import column, completions, fill_wal, only_segments
from tests.kafka.broker import Broker
from tests.ports import free_ports

SASL = (
    "sasl.enabled.mechanisms=PLAIN",
    "listener.security.protocol.map=PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
    "listener.name.plaintext.sasl.enabled.mechanisms=PLAIN",
    "sasl.mechanism.inter.broker.protocol=PLAIN",
    "listener.name.plaintext.plain.sasl.jaas.config="
    "org.apache.kafka.common.security.plain.PlainLoginModule required "
    'username="everlearn" password="right" user_everlearn="right";',
)


def never() -> bool:
    return False


def nothing(batch: Stored) -> None:
    """Take note of nothing."""


@pytest.fixture
def service(tmp_path: Path, broker: Broker) -> Service:
    service = make_service(
        tmp_path, bus=broker.bus(partitions=3), gateway={"capture": {"segment_bytes": 4096}}
    )
    assert ensure_topic(service.bus, never)
    return service


@pytest.fixture
def collector(service: Service, lake: DuckLake) -> Iterator[Collector]:
    source = KafkaSource(service.bus, lambda: positions(lake))
    yield Collector(source, lake, service.collector)
    source.close()


def ship(service: Service) -> int:
    shipper = Shipper(service.wal_path, service.bus)
    count = 0
    while shipped := shipper.step(0.0):
        count += shipped
    shipper.close()
    return count


def collect_until(collector: Collector, lake: DuckLake, sql: str, value: int) -> None:
    deadline = time.monotonic() + 30
    while column(lake, sql) != [value]:
        assert time.monotonic() < deadline, column(lake, sql)
        collector.step(0.5, nothing)


COUNT = "SELECT count(*) FROM completions"


def test_from_the_wal_over_kafka_into_the_lake(
    service: Service, lake: DuckLake, collector: Collector
) -> None:
    events = completions(30)
    gateway = fill_wal(service, [*events, make_feedback(completion_id=events[3].completion_id)])
    assert ship(service) == 31
    assert shipped_positions(service.wal_path) == {f"wal/{gateway}": 32}
    assert len(only_segments(service)) == 1, "segments go once they are acknowledged"
    collect_until(collector, lake, COUNT, 30)
    assert column(lake, "SELECT completion_id FROM feedback_joined") == [events[3].completion_id]
    (account,) = ledger(service, lake)
    assert (account.stored, account.missing, account.duplicates, account.pending) == (31, 0, 0, 0)


def test_the_ledger_knows_what_is_in_the_wal_and_what_is_in_kafka(
    service: Service, lake: DuckLake
) -> None:
    fill_wal(service, completions(3, received_at=time.time() - 5, latency_ms=0.0))
    (unshipped,) = ledger(service, lake)
    assert (unshipped.pending, unshipped.missing) == (3, 0)
    assert unshipped.lag_seconds > 4
    ship(service)
    (shipped,) = ledger(service, lake)
    assert (shipped.pending, shipped.missing) == (3, 0)
    assert 0 < shipped.lag_seconds < 60


def test_other_machines_learn_what_a_gateway_has_counted(
    service: Service, lake: DuckLake, tmp_path: Path
) -> None:
    fill_wal(service, completions(4))
    state = open_state(service)
    publish_counts(service.wal_path, state)
    publish_counts(service.wal_path, state)
    state.close()
    service.wal_path.rename(tmp_path / "elsewhere")
    (account,) = ledger(service, lake)
    assert (account.acknowledged, account.pending, account.missing) == (4, 4, 0)


def test_a_shipper_that_forgot_how_far_it_was_doubles_nothing(
    service: Service, lake: DuckLake, collector: Collector
) -> None:
    gateway = fill_wal(service, completions(10, request=b"{}"))
    kept = {path: path.read_bytes() for _, path in only_segments(service)}
    ship(service)
    for path, content in kept.items():
        path.write_bytes(content)
    (service.wal_path / gateway / "shipped").unlink()
    assert ship(service) == 10
    fill_wal(service, completions(1))
    ship(service)
    collect_until(collector, lake, COUNT, 11)
    collector.step(0.5, nothing)
    assert column(lake, "SELECT count(DISTINCT seq) FROM completions") == [11]
    assert column(lake, COUNT) == [11]


def test_garbage_in_the_topic_becomes_dead_letters(
    service: Service, lake: DuckLake, collector: Collector
) -> None:
    producer = open_producer(service.bus, SEND_SECONDS)
    topic = service.bus.topic
    ours = [("gateway", b"gw-x-w0"), ("seq", b"1")]
    producer.send(topic, b"\xff\x00 not ours")
    producer.send(topic, b"not an event", headers=ours)
    producer.send(topic, None, key=b"tombstone")
    producer.send(topic, b"", headers=[("gateway", b"\xff"), ("seq", b"one")])
    newer = encode(make_completion(schema_version=99))
    producer.send(topic, newer, headers=[("gateway", b"gw-x-w0"), ("seq", b"2")])
    producer.flush(timeout=10)
    producer.close()
    fill_wal(service, completions(2))
    ship(service)
    collect_until(collector, lake, "SELECT count(*) FROM dead_letters", 5)
    collect_until(collector, lake, COUNT, 2)
    reasons = column(lake, "SELECT reason FROM dead_letters")
    assert sum("was not written by a shipper" in reason for reason in reasons) == 3
    assert sum("newer than" in reason for reason in reasons) == 1


def test_a_record_larger_than_the_topic_takes_does_not_stop_the_rest(
    tmp_path: Path, broker: Broker, lake: DuckLake
) -> None:
    service = make_service(tmp_path, bus=broker.bus(partitions=3))
    admin = KafkaAdminClient(bootstrap_servers=[broker.address])
    limits = {"max.message.bytes": "20000"}
    created = NewTopic(
        name=service.bus.topic, num_partitions=1, replication_factor=1, topic_configs=limits
    )
    admin.create_topics([created])
    admin.close()
    big = make_completion(request=b"x" * 50_000)
    gateway = fill_wal(service, [make_completion(), big, make_completion()])
    assert ship(service) == 3
    source = KafkaSource(service.bus, lambda: positions(lake))
    collect_until(Collector(source, lake, service.collector), lake, COUNT, 2)
    source.close()
    (reason,) = column(lake, "SELECT reason FROM dead_letters")
    assert "more than the topic takes" in reason
    kept = service.wal_path / gateway / "refused" / f"{2:020d}"
    assert kept.read_bytes() == encode(big)


def test_a_topic_that_does_not_exist_and_may_not_be_created(tmp_path: Path, broker: Broker) -> None:
    service = make_service(tmp_path, bus={**broker.bus(partitions=3), "create_topic": False})
    with pytest.raises(ConfigError, match=r"does not exist and bus\.create_topic is false"):
        ensure_topic(service.bus, never)


def test_the_topic_is_created_as_the_config_says(service: Service, broker: Broker) -> None:
    admin = KafkaAdminClient(bootstrap_servers=[broker.address])
    topics = admin.describe_topics([service.bus.topic])
    admin.close()
    assert [len(topic["partitions"]) for topic in topics] == [3]


def test_a_broker_that_is_away_is_waited_for_until_stopped(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    bus = {
        "kind": "kafka",
        "bootstrap_servers": [f"127.0.0.1:{port}"],
        "client": {"bootstrap_timeout_ms": 200},
    }
    service = make_service(tmp_path, bus=bus)
    asked = iter([False, False, True])
    assert ensure_topic(service.bus, lambda: next(asked)) is False


def test_a_broker_that_is_away_leaves_nothing_missing_in_the_ledger(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    service = make_service(
        tmp_path, bus={"kind": "kafka", "bootstrap_servers": [f"127.0.0.1:{port}"]}
    )
    assert read_backlog(service.bus, {}) == UNKNOWN


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that asks for a password."""
    broker = Broker(tmp_path_factory.mktemp("guarded"), SASL)
    broker.start()
    yield broker
    broker.kill()


def credentials(password: str) -> dict[str, str]:
    return {
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "PLAIN",
        "sasl_plain_username": "everlearn",
        "sasl_plain_password": password,
    }


def test_wrong_credentials_are_a_config_error_and_right_ones_pass_through(
    tmp_path: Path, guarded: Broker
) -> None:
    right = make_service(
        tmp_path, bus={**guarded.bus(partitions=3), "client": credentials("right")}
    )
    assert ensure_topic(right.bus, never)
    fill_wal(right, completions(3))
    assert ship(right) == 3
    wrong = make_service(
        tmp_path, bus={**guarded.bus(partitions=3), "client": credentials("wrong")}
    )
    with pytest.raises(ConfigError, match="refuses"):
        ensure_topic(wrong.bus, never)


def test_a_collector_that_joins_and_leaves_loses_and_doubles_nothing(
    service: Service, lake: DuckLake
) -> None:
    stop = threading.Event()

    def keep_shipping() -> None:
        while not stop.is_set():
            fill_wal(service, completions(20))
            ship(service)

    def run(until: threading.Event) -> None:
        source = KafkaSource(service.bus, lambda: positions(lake))
        Collector(source, lake, service.collector).run(until.is_set, nothing)
        source.close()

    shipper = threading.Thread(target=keep_shipping)
    leaves, stays = threading.Event(), threading.Event()
    first = threading.Thread(target=run, args=(leaves,))
    second = threading.Thread(target=run, args=(stays,))
    for thread in (shipper, first):
        thread.start()
    time.sleep(2)
    second.start()
    time.sleep(3)
    leaves.set()
    first.join(30)
    time.sleep(1)
    stop.set()
    shipper.join(30)
    deadline = time.monotonic() + 40
    while any(item.pending for item in ledger(service, lake)) and time.monotonic() < deadline:
        time.sleep(0.3)
    stays.set()
    second.join(30)
    (account,) = ledger(service, lake)
    assert (account.missing, account.duplicates, account.pending) == (0, 0, 0)
    assert account.stored == account.acknowledged > 0


def record(payload: bytes) -> Record:
    return Record("wal/gw-a-w0", 1, "gw-a-w0", 1, payload)


def test_the_key_keeps_a_conversation_together_and_spreads_the_rest() -> None:
    said = {"conversation_id": "c-1"}
    assert message_key(record(encode(make_completion(**said)))) == b"c-1"
    assert message_key(record(encode(make_feedback(**said)))) == b"c-1"
    named = make_completion(request_id="r-1")
    assert message_key(record(encode(named))) == b"r-1"
    assert message_key(record(b"garbage")) == b"gw-a-w0"
    keys = [message_key(record(encode(make_completion()))) for _ in range(300)]
    spread = [partition_of(key, 3) for key in keys]
    assert min(spread.count(number) for number in range(3)) > 50


def test_messages_carry_schema_gateway_and_number(service: Service) -> None:
    fill_wal(service, completions(1))
    ship(service)
    source = KafkaSource(service.bus, dict)
    deadline = time.monotonic() + 20
    found: list[Record] = []
    while not found and time.monotonic() < deadline:
        found = list(source.poll(10, 10**6, 0.5))
    source.close()
    (item,) = found
    assert item.seq == 1
    assert item.source.startswith(f"{service.bus.topic}/")

"""How far the lake is behind Kafka: messages not yet stored, and the age of the oldest."""

import logging
import time
from collections.abc import Mapping

from kafka import KafkaConsumer, TopicPartition
from kafka import errors as kafka_errors

from collector.backlog import NOTHING_WAITS, UNKNOWN, Backlog
from collector.kafka_source import source_of
from collector.topic import client_name, client_settings
from everlearn.config import Bus

log = logging.getLogger(__name__)

TIMEOUT_MS = 3000


def read_backlog(bus: Bus, reached: Mapping[str, int]) -> Backlog:
    """What stands in the topic beyond the lake's positions."""
    try:
        consumer = KafkaConsumer(
            client_id=client_name("ledger"),
            enable_auto_commit=False,
            allow_auto_create_topics=False,
            bootstrap_timeout_ms=TIMEOUT_MS,
            **client_settings(bus),
        )
    except kafka_errors.KafkaError as error:
        log.warning("Kafka does not answer: %s", error)
        return UNKNOWN
    try:
        return _read(consumer, bus.topic, reached)
    except kafka_errors.KafkaError as error:
        log.warning("Kafka does not answer: %s", error)
        return UNKNOWN
    finally:
        consumer.close(autocommit=False)


def _read(consumer: KafkaConsumer, topic: str, reached: Mapping[str, int]) -> Backlog:
    partitions = [
        TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic) or ()
    ]
    if not partitions:
        return NOTHING_WAITS
    first = consumer.beginning_offsets(partitions, timeout_ms=TIMEOUT_MS)
    last = consumer.end_offsets(partitions, timeout_ms=TIMEOUT_MS)
    behind = {}
    for partition in partitions:
        stored = reached.get(source_of(topic, partition.partition), 0)
        start = max(stored, first[partition])
        if last[partition] > start:
            behind[partition] = start
    records = sum(last[partition] - start for partition, start in behind.items())
    return Backlog(records, _age(consumer, behind))


def _age(consumer: KafkaConsumer, behind: Mapping[TopicPartition, int]) -> float:
    """Seconds since the oldest message that is not stored was sent."""
    if not behind:
        return 0.0
    consumer.assign(list(behind))
    for partition, start in behind.items():
        consumer.seek(partition, start)
    oldest = time.time()
    deadline = time.monotonic() + TIMEOUT_MS / 1000
    waited = set(behind)
    while waited and time.monotonic() < deadline:
        for partition, items in consumer.poll(200, max_records=len(behind)).items():
            waited.discard(partition)
            oldest = min(oldest, items[0].timestamp / 1000)
            consumer.pause(partition)
    return time.time() - oldest

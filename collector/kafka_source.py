"""The distributed event log: a topic whose partitions the collectors of a group share.

- Kafka's group only says who reads what; where to go on is asked of the lake at every assignment.
- The group is told how far the lake is, so that Kafka's tools show the true lag; we never ask it.
- A broker that is away, or a group that has forgotten us, is waited for; nothing is lost by it.
- A message without our headers is handed over with `error`: a dead letter, not a stop.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition
from kafka import errors as kafka_errors
from kafka.structs import OffsetAndMetadata

from collector.topic import client_name, client_settings
from everlearn.config import Bus
from everlearn.log.bus import Record

log = logging.getLogger(__name__)

LEAVE_MS = 2000
"""How long the broker may take when we leave the group."""

Positions = Callable[[], Mapping[str, int]]


class KafkaSource:
    """Reads the partitions that the group assigns to this collector."""

    def __init__(self, bus: Bus, stored: Positions) -> None:
        self._bus, self._stored = bus, stored
        self._consumer: KafkaConsumer | None = None
        self._reached: dict[str, int] = {}
        """How far the lake is, as we last heard."""

    def poll(self, max_records: int, max_bytes: int, timeout_seconds: float) -> Sequence[Record]:
        """The next messages of the assigned partitions; empty on timeout."""
        try:
            consumer = self._consumer = self._consumer or self._open()
            batches = consumer.poll(int(timeout_seconds * 1000), max_records)
        except kafka_errors.KafkaError as error:
            log.warning("Kafka: %s: %s; trying again", type(error).__name__, error)
            # A consumer that stays comes back as the member it was; for a new one the group waits
            # until the old one's session has ended.
            if not error.retriable:
                self.close()
            time.sleep(min(timeout_seconds, 1.0))
            return []
        return [to_record(item) for items in batches.values() for item in items]

    def seek(self, positions: Mapping[str, int]) -> None:
        """Go on at these offsets, where the partition is assigned; others are asked for later."""
        if self._consumer is not None:
            self._seek(self._consumer, self._consumer.assignment(), positions)

    def committed(self, positions: Mapping[str, int]) -> None:
        """Tell the group, without waiting; retention frees space, not we."""
        self._reached |= positions
        if self._consumer is not None:
            with suppress(kafka_errors.KafkaError):
                self._consumer.commit_async(self._offsets(self._consumer), callback=_told)

    def close(self) -> None:
        """Leave the group; it hears of the last batch before."""
        if self._consumer is not None:
            try:
                self._consumer.commit(self._offsets(self._consumer), timeout_ms=LEAVE_MS)
            except kafka_errors.KafkaError as error:
                log.info("the group does not know how far the lake is: %s", error)
            try:
                self._consumer.close(autocommit=False, timeout_ms=LEAVE_MS)
            except kafka_errors.KafkaError as error:
                log.info("leaving the group: %s", error)
            self._consumer = None

    def _offsets(self, consumer: KafkaConsumer) -> dict[TopicPartition, OffsetAndMetadata]:
        """How far the lake is in what is ours now."""
        reached = {
            partition: self._reached.get(source_of(partition.topic, partition.partition))
            for partition in consumer.assignment()
        }
        return {
            partition: OffsetAndMetadata(position)
            for partition, position in reached.items()
            if position is not None
        }

    def _open(self) -> KafkaConsumer:
        consumer = KafkaConsumer(**consumer_settings(self._bus))
        consumer.subscribe([self._bus.topic], listener=_Assigned(self, consumer))
        return consumer

    def assigned(self, consumer: KafkaConsumer, partitions: Sequence[TopicPartition]) -> None:
        """Seek to where the lake is; a partition that it does not know starts at its beginning."""
        log.info("assigned: %s", ", ".join(str(item.partition) for item in partitions) or "none")
        self._seek(consumer, partitions, self._stored())

    def _seek(self, consumer: KafkaConsumer, partitions: Any, positions: Mapping[str, int]) -> None:
        self._reached |= positions
        for partition in partitions:
            position = positions.get(source_of(partition.topic, partition.partition))
            if position is None:
                consumer.seek_to_beginning(partition)
            else:
                consumer.seek(partition, position)


def _told(_: object, answer: object) -> None:
    if isinstance(answer, Exception):
        log.debug("the group was not told: %s", answer)


class _Assigned(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, source: KafkaSource, consumer: KafkaConsumer) -> None:
        self._source, self._consumer = source, consumer

    def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        """What was read and not yet stored is dropped by whoever stores it second."""

    def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        self._source.assigned(self._consumer, assigned)


def consumer_settings(bus: Bus) -> dict[str, Any]:
    """How a collector reads; `bus.client` may override what it says."""
    return {
        "client_id": client_name("collector"),
        "group_id": bus.group,
        "enable_auto_commit": False,
        "auto_offset_reset": "earliest",
        "allow_auto_create_topics": False,
        "fetch_max_wait_ms": 50,
        "max_partition_fetch_bytes": 8 * 2**20,
        "fetch_max_bytes": 64 * 2**20,
        "session_timeout_ms": 10_000,
        "heartbeat_interval_ms": 2_000,
        "metadata_max_age_ms": 10_000,
        **client_settings(bus),
    }


def source_of(topic: str, partition: int) -> str:
    """The name of a partition in the lake's `offsets`."""
    return f"{topic}/{partition}"


def to_record(item: Any) -> Record:
    """One message as a record; what has no gateway and number cannot be one of ours."""
    headers = dict(item.headers or ())
    source, payload = source_of(item.topic, item.partition), item.value or b""
    try:
        gateway_id, seq = headers["gateway"].decode(), int(headers["seq"])
        error = headers["error"].decode() if "error" in headers else None
    except (KeyError, ValueError, AttributeError):
        reason = f"message {item.offset} of {source} was not written by a shipper"
        return Record(source, item.offset, "", 0, payload, reason)
    return Record(source, item.offset, gateway_id, seq, payload, error)

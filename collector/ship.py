"""The shipper: WAL records to Kafka, acknowledged by all replicas, then their segments are freed.

- Idempotent producer, acks=all: a retry of the client never doubles or reorders.
- A shipper that dies sends what it had not noted as shipped again; the collector drops it.
- Kafka down: the WAL keeps growing up to its limit, nothing is lost, sending goes on by itself.
- A record larger than the topic takes is kept in `<worker folder>/refused/` and named by a dead
  letter, so that it does not stop the stream.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from kafka import KafkaProducer
from kafka import errors as kafka_errors
from msgspec.structs import replace

from collector.shipped import Shipped, shipped_positions
from collector.topic import client_name, client_settings, message, partition_of, topic_limit
from collector.wal_source import WalSource
from everlearn.config import Bus, Service
from everlearn.errors import CaptureError, EverlearnError
from everlearn.log.bus import EventSource, Record
from everlearn.log.identity import read_counts, worker_folders
from everlearn.process_log import about_bytes
from everlearn.state import State, StateConflict, open_state

log = logging.getLogger(__name__)

BATCH_RECORDS = 10_000
BATCH_BYTES = 32 * 2**20
FIRST_SEND_SECONDS = 5.0
SEND_SECONDS = 30.0
"""How long a batch may take before a new producer sends it again: a producer whose broker went away
may not notice that it is back. Twice as long after every failure, up to the second."""
PUBLISH_SECONDS = 1.0
"""How often other machines are told what this one's gateways have counted."""
AWAY_SECONDS = 30.0
"""How long a state store that is away is left alone."""
CLOSE_SECONDS = 5.0
STUB_BYTES = 4 * 1024
"""Of a refused record, how much goes into its dead letter."""


class Shipper:
    """Moves everything under `root` to the topic."""

    def __init__(self, root: Path, bus: Bus, source: EventSource | None = None) -> None:
        self._root, self._bus = root, bus
        self._source = source or WalSource(root)
        self._shipped = Shipped(root)
        self._source.seek(self._shipped.positions)
        self._producer: KafkaProducer | None = None
        self._patience = FIRST_SEND_SECONDS

    def step(self, timeout_seconds: float) -> int:
        """Ship what is there, how many records.

        1. Read records.
        2. Send all, wait until every one is acknowledged.
        3. Note the positions, then let the segments go.
        """
        records = self._source.poll(BATCH_RECORDS, BATCH_BYTES, timeout_seconds)
        if not records:
            return 0
        reached = {record.source: record.position + 1 for record in records}
        started = time.monotonic()
        try:
            self._send(records, reached)
        except kafka_errors.KafkaError as error:
            log.warning("Kafka: %s: %s; sending again", type(error).__name__, error)
            self._again()
            return 0
        if time.monotonic() - started < FIRST_SEND_SECONDS / 2:
            self._patience = FIRST_SEND_SECONDS
        self._shipped.acknowledged(reached)
        self._source.committed(self._shipped.positions)
        return len(records)

    def close(self) -> None:
        """Drop the connection; all that was counted as shipped is acknowledged."""
        if self._producer is not None:
            self._producer.close(timeout=5)
        self._source.close()

    def _send(self, records: Sequence[Record], reached: Mapping[str, int]) -> None:
        if self._producer is None:
            self._producer = open_producer(self._bus, self._patience)
        producer = self._producer
        spread = self._shipped.spread(reached, len(producer.partitions_for(self._bus.topic)))
        self._shipped.sending(reached)
        futures = [self._queue(producer, record, spread[record.source]) for record in records]
        deadline = time.monotonic() + self._patience
        producer.flush(timeout=self._patience)
        for future in futures:
            future.get(timeout=max(0.001, deadline - time.monotonic()))

    def _queue(self, producer: KafkaProducer, record: Record, partitions: int) -> Any:
        key, value, headers = message(record)
        partition = partition_of(key, partitions)
        try:
            return producer.send(self._bus.topic, value, key, headers, partition)
        except kafka_errors.MessageSizeTooLargeError:
            key, value, headers = message(self._refuse(record))
            return producer.send(self._bus.topic, value, key, headers, partition)

    def _refuse(self, record: Record) -> Record:
        folder = self._root / record.source.removeprefix("wal/") / "refused"
        folder.mkdir(exist_ok=True)
        (folder / f"{record.seq:020d}").write_bytes(record.payload)
        reason = f"{len(record.payload)} bytes are more than the topic takes: kept in {folder}"
        origin = {"gateway_id": record.gateway_id, "seq": record.seq}
        log.error("%s", reason, extra={**about_bytes(record.payload), **origin})
        return replace(record, payload=record.payload[:STUB_BYTES], error=reason)

    def _again(self) -> None:
        if self._producer is not None:
            # What it still holds is sent again; that it says so is no news.
            with suppress(kafka_errors.KafkaError):
                self._producer.close(timeout=1)
            self._producer = None
            self._patience = min(2 * self._patience, SEND_SECONDS)
        self._source.seek(self._shipped.positions)
        time.sleep(0.2)


def open_producer(bus: Bus, seconds: float) -> KafkaProducer:
    """The idempotent producer, which gives a batch up after so many seconds; `bus.client` may
    override what it says.

    It refuses a message that the topic would not take: the broker's refusal would break the
    sequence of a whole batch.
    """
    limit = topic_limit(bus)
    settings = {
        "client_id": client_name("shipper"),
        "acks": "all",
        "enable_idempotence": True,
        "linger_ms": 5,
        "batch_size": min(256 * 1024, limit // 2),
        "max_request_size": limit,
        "delivery_timeout_ms": int(seconds * 1000),
        "request_timeout_ms": int(seconds * 500),
        "max_block_ms": int(seconds * 1000),
        "allow_auto_create_topics": False,
        **client_settings(bus),
    }
    return KafkaProducer(**settings)


class Announcer:
    """Tells other machines, once a second, what this one's gateways have counted.

    In a thread of its own: a state store that hangs or is away stops no shipping. It is said, and
    tried again after a pause.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="announcer", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Tell the last counts, if the state store takes them soon."""
        self._stopped.set()
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        state: State | None = None
        last = False
        while not last:
            last, pause = self._stopped.is_set(), PUBLISH_SECONDS
            try:
                state = state or open_state(self._service)
                publish_counts(self._service.wal_path, state)
            except EverlearnError as error:
                pause = AWAY_SECONDS
                log.warning("other machines are not told of this one's counts: %s", error)
            if not last:
                self._stopped.wait(pause)
        if state is not None:
            state.close()


def publish_counts(root: Path, state: State) -> None:
    """Tell other machines what this one's gateways have acknowledged, dropped and shipped."""
    shipped = shipped_positions(root)
    for folder in worker_folders(root):
        try:
            counts = read_counts(folder)
        except CaptureError:
            continue
        document = {
            "acknowledged": counts.acknowledged,
            "dropped": counts.dropped,
            "skipped": counts.skipped,
            "next_seq": counts.next_seq,
            "shipped": shipped.get(f"wal/{folder.name}", 1),
            "at": time.time(),
        }
        before = state.get("gateway", folder.name)
        try:
            state.put("gateway", folder.name, document, before[1] if before else 0)
        except StateConflict:
            continue


def run(shipper: Shipper, stopped: Callable[[], bool], shipped: Callable[[int], None]) -> None:
    """Ship until stopped, then what is still there, as long as Kafka takes it."""
    while not stopped():
        shipped(shipper.step(0.5))
    deadline = time.monotonic() + SEND_SECONDS
    while time.monotonic() < deadline and (count := shipper.step(0.0)):
        shipped(count)

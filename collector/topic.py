"""The Kafka topic of the events: settings, creation, and errors in the config's words.

A message is one event, keyed so that one conversation stays ordered; headers say the schema
version, the gateway and its sequence number.
"""

import logging
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from typing import Any, NamedTuple
from zlib import crc32

import msgspec
from kafka import KafkaAdminClient
from kafka import errors as kafka_errors
from kafka.admin import ConfigResource, ConfigResourceType, NewTopic

from everlearn.config import Bus
from everlearn.errors import ConfigError
from everlearn.events import SCHEMA_VERSION
from everlearn.log.bus import Record

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 64 * 2**20
"""Of topics that we create: a request and its answer may each be 16 MB and more."""
RETRY_SECONDS = 1.0
BOOTSTRAP_MS = 5000

REFUSED = (
    kafka_errors.AuthorizationError,
    kafka_errors.SaslAuthenticationFailedError,
    kafka_errors.UnsupportedSaslMechanismError,
    kafka_errors.IllegalSaslStateError,
    kafka_errors.KafkaConfigurationError,
    kafka_errors.InvalidTopicError,
    kafka_errors.InvalidReplicationFactorError,
    kafka_errors.PolicyViolationError,
)
"""Answers that no waiting changes: the config is wrong."""


class _Refusals(logging.Handler):
    """Hears why a connection ended: kafka-python 3.0 tries wrong credentials again for ever and
    says so only in its log."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: Exception | None = None

    def emit(self, record: logging.LogRecord) -> None:
        for item in record.args or ():
            if isinstance(item, REFUSED):
                self.found = item


class Keys(msgspec.Struct):
    """The parts of an event that a message's key is made of."""

    type: str = ""
    conversation_id: str | None = None
    request_id: str | None = None
    completion_id: str | None = None


_decode_keys = msgspec.msgpack.Decoder(Keys).decode


class Message(NamedTuple):
    """What is sent for one record."""

    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


def message(record: Record) -> Message:
    """The message of one WAL record."""
    headers = [
        ("schema", b"%d" % SCHEMA_VERSION),
        ("gateway", record.gateway_id.encode()),
        ("seq", b"%d" % record.seq),
    ]
    if record.error is not None:
        headers.append(("error", record.error.encode()))
    return Message(message_key(record), bytes(record.payload), headers)


def message_key(record: Record) -> bytes:
    """Conversation, else request, else completion; the gateway of what cannot be read."""
    try:
        keys = _decode_keys(record.payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return record.gateway_id.encode()
    key = keys.conversation_id or keys.request_id or keys.completion_id or record.gateway_id
    return key.encode()


def partition_of(key: bytes, partitions: int) -> int:
    """Where a key goes: the same on every shipper that counts as many partitions."""
    return crc32(key) % partitions


def client_settings(bus: Bus) -> dict[str, Any]:
    """What every client is made with: `bus.client` passes through as it is."""
    return {
        "bootstrap_servers": list(bus.bootstrap_servers),
        # kafka-python's own 30 s would be how late we notice that a broker is back.
        "reconnect_backoff_max_ms": 1000,
        **bus.client,
    }


def ensure_topic(bus: Bus, stopped: Callable[[], bool]) -> bool:
    """Wait for the broker, create the topic if it may be created; False when stopped before.

    ConfigError for what waiting does not change: credentials, a topic that must not be created.
    """
    refusals, said = _Refusals(), False
    connections = logging.getLogger("kafka.net.connection")
    level, connections.level = connections.level, logging.ERROR
    connections.addHandler(refusals)
    try:
        while not stopped():
            try:
                with closing(_admin(bus)) as admin:
                    _create(admin, bus)
                return True
            except kafka_errors.KafkaError as error:
                refused = error if isinstance(error, REFUSED) else refusals.found
                if refused is not None:
                    raise _refused(bus, refused) from error
                if not said:
                    log.warning("Kafka at %s: %s; waiting", ", ".join(bus.bootstrap_servers), error)
                said = True
                time.sleep(RETRY_SECONDS)
    finally:
        connections.removeHandler(refusals)
        connections.level = level
    return False


def _admin(bus: Bus) -> KafkaAdminClient:
    settings = {"bootstrap_timeout_ms": BOOTSTRAP_MS, "client_id": client_name("topic")}
    return KafkaAdminClient(**{**settings, **client_settings(bus)})


def _create(admin: KafkaAdminClient, bus: Bus) -> None:
    if bus.topic in admin.list_topics():
        return
    if not bus.create_topic:
        raise ConfigError(
            f"bus.topic {bus.topic!r} does not exist and bus.create_topic is false: "
            "create it, or allow it"
        )
    topic = NewTopic(
        name=bus.topic,
        num_partitions=bus.partitions,
        replication_factor=bus.replication_factor,
        topic_configs={
            "retention.ms": str(int(bus.retention_hours * 3_600_000)),
            "max.message.bytes": str(MAX_MESSAGE_BYTES),
        },
    )
    try:
        admin.create_topics([topic])
    except kafka_errors.TopicAlreadyExistsError:
        return
    log.info("created topic %s with %d partitions", bus.topic, bus.partitions)


def topic_limit(bus: Bus) -> int:
    """The largest message that the topic takes, in bytes, headers and framing included."""
    resource = ConfigResource(ConfigResourceType.TOPIC, bus.topic)
    with closing(_admin(bus)) as admin:
        answer = admin.describe_configs([resource], config_filter="all")
    for names in answer.values():
        for settings in names.values():
            return int(settings["max.message.bytes"]["value"])
    return MAX_MESSAGE_BYTES


def _refused(bus: Bus, error: Exception) -> ConfigError:
    servers = ", ".join(bus.bootstrap_servers)
    reason = " ".join(str(error).split()) or type(error).__name__
    return ConfigError(f"bus: Kafka at {servers} refuses {bus.topic!r}: {reason}")


def client_name(role: str) -> str:
    """A client id that names the role and is nobody else's."""
    return f"everlearn-{role}-{uuid.uuid4().hex[:8]}"

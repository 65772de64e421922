"""Real servers for tests, one of each per session, started when a test first asks for one."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kafka.broker import Broker
from tests.postgres import Postgres, postgres
from tests.s3 import S3, s3_server


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    """A Kafka broker that no test may stop."""
    folder = Path(tempfile.mkdtemp(prefix="everlearn-kafka-"))
    broker = Broker(folder)
    broker.start()
    yield broker
    broker.kill()
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """A Postgres server; take a database of your own."""
    with postgres() as server:
        yield server


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """An S3 server; take a bucket of your own."""
    with s3_server() as server:
        yield server

"""The same service in both forms."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from everlearn.config import Service
from everlearn.lake.ducklake import DuckLake, open_lake
from tests.builders import make_service
from tests.postgres import Postgres
from tests.s3 import KEYS, S3


@pytest.fixture(params=["sqlite and folder", "postgres and s3"])
def service(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Service:
    """A config whose lake and state are the embedded or the distributed ones."""
    if request.param == "sqlite and folder":
        return make_service(tmp_path)
    server: Postgres = request.getfixturevalue("postgres_server")
    s3: S3 = request.getfixturevalue("s3")
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    assert os.environ["AWS_ACCESS_KEY_ID"]
    database = server.database()
    lake = {
        "catalog": server.catalog(database),
        "data_path": s3.bucket(f"lake-{uuid.uuid4().hex}"),
        "s3_endpoint": s3.endpoint,
        "s3_use_ssl": False,
    }
    return make_service(tmp_path, lake=lake, state={"url": server.url(database)})


@pytest.fixture
def lake(service: Service) -> Iterator[DuckLake]:
    lake = open_lake(service)
    yield lake
    lake.close()

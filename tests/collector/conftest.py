"""A service with an empty lake."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from everlearn.config import Service
from everlearn.lake.ducklake import DuckLake, open_lake
from tests.builders import make_service


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return make_service(tmp_path)


@pytest.fixture
def lake(service: Service) -> Iterator[DuckLake]:
    lake = open_lake(service)
    yield lake
    lake.close()

"""Fixtures every folder's tests may use."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from examples import models
from tests.mlflow_server import mlflow_server
from tests.servers import broker, postgres_server, s3

__all__ = ["anyio_backend", "broker", "free_port", "mlflow_address", "postgres_server", "s3"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def find_free_port() -> int:
    """A port nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        assert isinstance(port, int)
        return port


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """A function that names a port nobody listens on just now."""
    return find_free_port


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """A real chat model's folder, made once per machine."""
    return models.smollm2()


@pytest.fixture(scope="session")
def mlflow_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server, one for the whole run: use a task name of your own."""
    with mlflow_server(tmp_path_factory.mktemp("mlflow"), find_free_port()) as address:
        yield address

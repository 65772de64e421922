"""One tiny model and one tracking server for all trainer tests."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from evaluators.sandbox import sandbox
from tests.mlflow_server import mlflow_server
from tests.trainer.tiny import build_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny model."""
    import torch

    torch.set_num_threads(1)
    return build_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server's address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with mlflow_server(tmp_path_factory.mktemp("mlflow"), port) as address:
        yield address


@pytest.fixture(scope="session", autouse=True)
def no_child_left() -> Iterator[None]:
    """The process keeps graders' child processes warm; tests end them."""
    yield
    sandbox().close()

"""One tiny model and one tracking server for all trainer tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from evaluators.sandbox import sandbox
from tests.mlflow_server import mlflow_server
from tests.ports import find_free_port
from tests.trainer.commenting import RULE
from tests.trainer.tiny import build_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny model."""
    import torch

    torch.set_num_threads(1)
    return build_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def follower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is right about shades when the rule stands in its prompt, and only then."""
    import torch

    torch.set_num_threads(1)
    return build_model(tmp_path_factory.mktemp("follower"), rules=[RULE])


@pytest.fixture(scope="session")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server's address."""
    with mlflow_server(tmp_path_factory.mktemp("mlflow"), find_free_port()) as address:
        yield address


@pytest.fixture(scope="session", autouse=True)
def no_child_left() -> Iterator[None]:
    """The process keeps graders' child processes warm; tests end them."""
    yield
    sandbox().close()

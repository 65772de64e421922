"""On an NVIDIA GPU: training there gives a version like any other. docs/gpu.md."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.trainer.production import fill
from tests.trainer.test_run import World
from trainer.adapter import content_digest

pytestmark = [pytest.mark.gpu, pytest.mark.slow]


@pytest.fixture(params=["sft", "dpo", "kto", "rft"])
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def world(tmp_path: Path, model: Path, mlflow: str) -> Iterator[World]:
    made = World(tmp_path, model, mlflow, device="cuda")
    yield made
    made.lake.close()


def test_each_method_trains_on_the_gpu(world: World, method: str) -> None:
    fill(world.lake, world.name)
    outcome = world.train(method=method)
    version = world.registry.get(world.name, outcome.version)
    assert version.path is not None
    assert version.digest == content_digest(version.path)

"""Fixtures every folder's tests may use."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from everlearn.config import Upstream
from examples import models
from serving.fleet import Fleet
from tests.mlflow_server import mlflow_server
from tests.ports import find_free_port
from tests.servers import broker, postgres_server, s3
from tests.serving.tiny import make_adapter
from tests.vllm_server import vllm_listening

__all__ = ["anyio_backend", "broker", "free_port", "mlflow_address", "postgres_server", "s3"]


# The same examples in each run: a fault that chance finds belongs to who looks for it, not to whose
# change happens to be tested. To look: pytest -m hypothesis --hypothesis-profile explore
settings.register_profile(
    "repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("explore", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile("repeatable")

MOST_RERUNS = 3


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A run that needed more second tries than one bad moment explains has failed."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        return
    again = reporter.stats.get("rerun", [])
    if len(again) > MOST_RERUNS and session.exitstatus == pytest.ExitCode.OK:
        reporter.write_line(f"\n{len(again)} tests ran twice, {MOST_RERUNS} may: mend them")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """A function that names a port nobody listens on just now."""
    return find_free_port


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """A real chat model's folder, made once per machine."""
    return models.smollm2()


@pytest.fixture(scope="session")
def vllm_base(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2 with a context that a small key-value cache has room for."""
    folder = tmp_path_factory.mktemp("vllm") / "base"
    folder.mkdir()
    for file in smollm2.iterdir():
        (folder / file.name).symlink_to(file)
    config = json.loads((smollm2 / "config.json").read_text())
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 1024}))
    return folder


@pytest.fixture(scope="session")
def vllm_adapters(vllm_base: Path) -> dict[str, Path]:
    """Three adapters of it that answer differently."""
    makes: dict[str, dict[str, Any]] = {
        "first": {"seed": 1},
        "second": {"seed": 2, "r": 4, "target_modules": ["q_proj"]},
        "third": {"seed": 3, "use_rslora": True},
    }
    return {
        name: make_adapter(vllm_base, vllm_base.parent / name, std=0.02, **options)
        for name, options in makes.items()
    }


@pytest.fixture(scope="session")
def vllm(vllm_base: Path, vllm_adapters: dict[str, Path]) -> Iterator[str]:
    """A real vLLM, one for the whole run, every adapter loaded by our fleet."""
    with vllm_listening(vllm_base, vllm_base.parent / "vllm.log") as address:
        with Fleet(Upstream(base_url=address, kind="vllm")) as fleet:
            for name, path in vllm_adapters.items():
                fleet.load(name, path)
            assert fleet.loaded() == {address: set(vllm_adapters)}
        yield address


@pytest.fixture(scope="session")
def mlflow_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server, one for the whole run: use a task name of your own."""
    with mlflow_server(tmp_path_factory.mktemp("mlflow"), find_free_port()) as address:
        yield address

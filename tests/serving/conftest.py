"""A tiny model, adapters and running servers."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import torch
import uvicorn
from fastapi import FastAPI

from serving.local.app import make_app
from serving.local.engine import Engine
from serving.local.model import Model
from tests.serving.tiny import make_adapter, make_model


@dataclass(frozen=True)
class Server:
    """A model server that listens."""

    address: str
    """Up to /v1."""
    engine: Engine

    @property
    def root(self) -> str:
        return self.address.removesuffix("/v1")


@contextmanager
def listening(app: FastAPI, port: int = 0) -> Iterator[str]:
    """Run an app in a thread; yields its address up to /v1."""
    listener = socket.create_server(("127.0.0.1", port))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        wait_until(lambda: server.started)
        yield f"{address}/v1"
    finally:
        server.should_exit = True
        thread.join(timeout=30.0)
        listener.close()


def wait_until(done: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for something another thread does."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.005)


@contextmanager
def running(
    base: Path,
    *,
    max_batch: int = 8,
    max_adapters: int = 8,
    port: int = 0,
    max_waiting: int = 1024,
    dtype: torch.dtype = torch.float32,
) -> Iterator[Server]:
    """A model server of its own."""
    torch.set_num_threads(1)
    app = make_app(
        Model(str(base), max_batch, dtype=dtype),
        name="base",
        max_batch=max_batch,
        max_adapters=max_adapters,
        max_waiting=max_waiting,
    )
    with listening(app, port) as address:
        yield Server(address, app.state.engine)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's folder."""
    return make_model(tmp_path_factory.mktemp("model") / "base")


@pytest.fixture(scope="session")
def adapters(base: Path) -> dict[str, Path]:
    """Three adapters that answer differently."""
    return {
        "first": make_adapter(base, base.parent / "first", seed=1),
        "second": make_adapter(
            base, base.parent / "second", seed=2, r=4, target_modules=["q_proj"]
        ),
        "third": make_adapter(base, base.parent / "third", seed=3, use_rslora=True),
    }


@pytest.fixture(scope="session")
def shared_server(base: Path, adapters: dict[str, Path]) -> Iterator[Server]:
    """One server with every adapter loaded, for tests that change nothing about it."""
    with running(base) as server:
        for name, path in adapters.items():
            body = {"lora_name": name, "lora_path": str(path)}
            httpx.post(f"{server.address}/load_lora_adapter", json=body).raise_for_status()
        yield server


@pytest.fixture
def start(base: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers of one's own, with options; all stop after the test."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(running(base, **options))

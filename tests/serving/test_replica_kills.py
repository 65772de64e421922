"""A replica dies under load, again and again, while the champion is an adapter: nobody notices.

By hand: EVERLEARN_KILLS=20 pytest tests/serving/test_replica_kills.py
"""

import asyncio
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from everlearn.config import Upstream
from everlearn.errors import ServingError
from gateway.routes import ArmRoute
from serving.fleet import Fleet
from tests.gateway.door import Door, door
from tests.serving.conftest import running, wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.alone]
KILLS = int(os.environ.get("EVERLEARN_KILLS", "1"))
NAME = "text2sql-" + "1" * 12
CHAMPION = ArmRoute(version="1", model=NAME)
ASK: dict[str, Any] = {"temperature": 0, "max_tokens": 6}


class Replica:
    """A model server as a process that can be killed and started again at its place."""

    def __init__(self, folder: Path, base: Path, port: int) -> None:
        folder.mkdir()
        server = {"model": str(base), "served_model_name": "base", "port": port}
        self._file = folder / "everlearn.yaml"
        self._file.write_text(yaml.safe_dump({"model_server": server}))
        self.address = f"http://127.0.0.1:{port}/v1"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = (sys.executable, "-m", "everlearn", "serve", "--config", str(self._file))
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def has(self, name: str) -> bool:
        try:
            models = httpx.get(f"{self.address}/models", timeout=5).json()["data"]
        except httpx.HTTPError:
            return False
        return name in {model["id"] for model in models}


@contextmanager
def keeper(upstream: Upstream, folder: Path) -> Iterator[None]:
    """Loads what a replica has lost, as the release controller does, only oftener."""
    stop = threading.Event()

    def keep() -> None:
        with Fleet(upstream) as fleet:
            while not stop.wait(0.2):
                try:
                    fleet.ensure({NAME: folder})
                except ServingError:
                    continue

    thread = threading.Thread(target=keep)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@asynccontextmanager
async def load(gate: Door, right: str, seen: Counter[str]) -> AsyncIterator[None]:
    """Four people who ask all the time; what they were answered."""
    over = asyncio.Event()

    async def person() -> None:
        while not over.is_set():
            got = await gate.chat(None, **ASK)
            if got.status_code != 200:
                seen[f"failed: {got.status_code} {got.text[:200]}"] += 1
            elif got.headers["x-everlearn-version"] != "1" or text(got.json()) != right:
                seen[f"wrong: version {got.headers['x-everlearn-version']}"] += 1
            else:
                seen["right"] += 1

    people = [asyncio.create_task(person()) for _ in range(4)]
    try:
        yield
    finally:
        over.set()
        await asyncio.gather(*people)


def text(body: dict[str, Any]) -> str:
    return str(body["choices"][0]["message"]["content"])


async def test_a_replica_killed_under_load_costs_no_answer(
    tmp_path: Path, base: Path, adapters: dict[str, Path], free_port: Callable[[], int]
) -> None:
    mortal = Replica(tmp_path / "mortal", base, free_port())
    seen: Counter[str] = Counter()
    with running(base) as sound:
        settings = {"replicas": [sound.address], "health_check_seconds": 1}
        upstream = Upstream(base_url=mortal.address, kind="vllm", replicas=(sound.address,))
        mortal.start()
        try:
            with keeper(upstream, adapters["first"]):
                await _until(lambda: mortal.has(NAME))
                routes = {"champion": CHAMPION}
                gate_folder = tmp_path / "gate"
                gate_folder.mkdir()
                async with door(
                    gate_folder, mortal.address, settings=settings, routes=routes
                ) as gate:
                    right = text((await gate.chat(None, **ASK)).json())
                    async with load(gate, right, seen):
                        for _ in range(KILLS):
                            await asyncio.sleep(1.0)
                            await asyncio.to_thread(mortal.kill)
                            mortal.start()
                            await _until(lambda: mortal.has(NAME))
                        await asyncio.sleep(1.0)
        finally:
            mortal.kill()
    assert set(seen) == {"right"}, seen
    assert seen["right"] > 20 * KILLS


async def _until(done: Callable[[], bool]) -> None:
    await asyncio.to_thread(wait_until, done, 120.0)

"""A whole release on a real vLLM, with a real chat model: loaded, ramped, promoted, taken back."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from click.testing import CliRunner

from everlearn.cli import group
from everlearn.config import Service
from everlearn.ids import new_id
from everlearn.lake.ducklake import open_lake
from everlearn.state import open_state
from everlearn.task import load_task, load_tasks
from gateway.worker import running
from registry.versions import ModelVersion, Registry
from serving.fleet import Fleet
from serving.release.book import Book
from serving.release.controller import TaskLoop
from serving.release.states import Phase, Release
from tests.builders import make_service
from tests.collector.events import collect
from tests.release.versions import gated

pytestmark = [
    *(pytest.mark.slow, pytest.mark.alone),
    *(pytest.mark.timeout(1500), pytest.mark.anyio),
]
ASKED = {
    "messages": [{"role": "user", "content": "Name a colour."}],
    "temperature": 0,
    "max_tokens": 16,
    # Ended by a word, not by the length: an answer that was cut off is not graded.
    "stop": ["a", "e", "i", "o"],
}
ROUNDS, USERS = 60, 12


class Rig:
    """A task on vLLM whose primary metric is whether an answer is not the base model's."""

    def __init__(self, folder: Path, vllm: str, mlflow: str) -> None:
        self.vllm, self.task = vllm, new_id("t").replace("_", "-")
        self.usual = self.straight("base")
        self.service: Service = make_service(
            folder,
            upstreams={"local": {"base_url": vllm, "kind": "vllm"}},
            mlflow={"tracking_uri": mlflow},
            gateway={"port": 0, "drain_seconds": 2.0},
        )
        other = {"type": "string_check", "input": "{{sample.output_text}}", "operation": "ne"}
        declared = {
            "task": self.task,
            "base_model": "base",
            "upstream": "local",
            "graders": [{"name": "new", **other, "reference": self.usual}],
            "release": {
                "primary": "new",
                "guardrails": ["error_rate"],
                "steps": [25, 50, 100],
                "min_dwell_seconds": 0,
                "answer_seconds": 0.5,
                "unit_close_seconds": 0.5,
                "holdback_percent": 0,
                "watch_seconds": 0,
            },
        }
        (folder / "tasks" / "task.yaml").write_text(yaml.safe_dump(declared))
        self.registry = Registry(self.service)
        self.asked = 0

    def straight(self, model: str) -> str:
        """What the server itself answers."""
        answer = httpx.post(
            f"{self.vllm}/chat/completions", json={**ASKED, "model": model}, timeout=120
        )
        return str(answer.raise_for_status().json()["choices"][0]["message"]["content"])

    def everlearn(self, *words: str) -> str:
        config = str(self.service.root / "everlearn.yaml")
        done = CliRunner().invoke(group, [*words, "--config", config])
        assert done.exit_code == 0, (done.output, done.exception)
        return done.stdout

    @property
    def release(self) -> Release:
        with closing(open_state(self.service)) as state:
            traffic = Book(state).traffic(self.task)
        assert traffic is not None
        assert traffic.release is not None
        return traffic.release

    def phase(self) -> Phase:
        """As it is now."""
        return self.release.phase

    @asynccontextmanager
    async def gateway(self) -> AsyncIterator[httpx.AsyncClient]:
        async with running(self.service, load_tasks(self.service)) as server:
            base = f"http://127.0.0.1:{server.port}/v1"
            async with httpx.AsyncClient(base_url=base, timeout=120) as client:
                yield client

    async def ask(self, client: httpx.AsyncClient, users: int) -> list[str]:
        """What new users are answered, each once and all at the same time."""
        self.asked += users
        bodies: list[dict[str, Any]] = [
            {**ASKED, "model": self.task, "user": f"user-{number}"}
            for number in range(self.asked - users, self.asked)
        ]
        answers = await asyncio.gather(
            *(client.post("/chat/completions", json=body) for body in bodies)
        )
        return [a.raise_for_status().json()["choices"][0]["message"]["content"] for a in answers]

    async def until_asked(
        self, client: httpx.AsyncClient, told: Callable[[list[str]], bool]
    ) -> None:
        """Waits until `told` holds of what new users are answered.

        A gateway follows what another process decided within a second or two, not at once.
        """
        async with asyncio.timeout(60):
            while not told(await self.ask(client, USERS)):
                await asyncio.sleep(0.1)


@pytest.fixture
def rig(tmp_path: Path, vllm: str, mlflow_address: str) -> Iterator[Rig]:
    made = Rig(tmp_path, vllm, mlflow_address)
    yield made
    with Fleet(made.service.upstreams["local"]) as fleet:
        for name in fleet.loaded()[vllm]:
            if name.startswith(made.task):
                fleet.unload(name)


async def test_a_version_is_loaded_ramped_promoted_and_taken_back_on_vllm(
    rig: Rig, vllm_base: Path
) -> None:
    folder = rig.service.root / "trained"
    version: ModelVersion = gated(rig.registry, rig.task, vllm_base, folder, seed=1, std=0.2)
    rig.everlearn("release", "start", rig.task, version.version)
    lake = open_lake(rig.service)
    loop = TaskLoop(rig.service, load_task(rig.service, rig.task))
    async with rig.gateway() as client:
        assert await rig.ask(client, 2) == [rig.usual] * 2
        await asyncio.to_thread(loop.tick)
        assert rig.phase() == Phase.RAMPING, rig.release.reason
        assert rig.straight(version.model_name) != rig.usual

        answers: list[str] = []
        for _ in range(ROUNDS):
            answers += await rig.ask(client, USERS)
            collect(rig.service, lake)
            await asyncio.to_thread(loop.tick)
            if not rig.release.active:
                break
        assert rig.phase() == Phase.PROMOTED, rig.release.reason
        assert "promote e-value" in rig.release.reason
        assert rig.usual in answers
        await rig.until_asked(client, lambda answers: rig.usual not in answers)

        rig.everlearn("rollback", rig.task, "--reason", "to see")
        await asyncio.to_thread(loop.tick)
        await rig.until_asked(client, lambda answers: set(answers) == {rig.usual})
    collect(rig.service, lake)
    sql = "SELECT version, status, response_text, count(*) AS n FROM completions GROUP BY ALL"
    served = lake.read(sql).to_pylist()
    assert sum(row["n"] for row in served) == rig.asked
    assert {row["status"] for row in served} == {"ok"}, served
    usual = {(row["version"], row["response_text"] == rig.usual) for row in served}
    assert usual == {("base", True), (version.version, False)}, served
    loop.close()
    lake.close()

"""From a copy of the data folder, on another model server, the champion answers again."""

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from everlearn.backup import backup
from everlearn.state import open_state
from everlearn.task import load_task
from serving.release.adapters import keep_warm
from serving.release.book import Book
from serving.release.routing import sync_route
from serving.release.states import Traffic
from tests.builders import make_service
from tests.gateway.door import door, write_task
from tests.release.test_adapters import NAMES, arm, no_registry, stock
from tests.serving.conftest import Server, adapters, base, start

__all__ = ["adapters", "base", "start"]
pytestmark = pytest.mark.anyio


async def test_the_champion_answers(
    tmp_path: Path, base: Path, start: Callable[..., Server], adapters: dict[str, Path]
) -> None:
    server = start()
    before = stock(tmp_path / "one", base, adapters["first"], [server.address])
    write_task(tmp_path / "one", "sql")
    with closing(open_state(before)) as state:
        Book(state).write("sql", msgspec.structs.replace(Traffic(champion=arm(1)), notes=()))
        sync_route(before.routes_path, "sql", lambda: Book(state).traffic("sql"))
    backup(before, tmp_path / "two" / ".everlearn")
    shutil.rmtree(tmp_path / "one")

    service = make_service(tmp_path / "two", upstreams=upstreams(server))
    write_task(tmp_path / "two", "sql")
    with closing(open_state(service)) as state:
        traffic = Book(state).traffic("sql")
    assert traffic is not None
    # What the controller does first.
    keep_warm(service, load_task(service, "sql"), traffic, no_registry)
    async with door(tmp_path / "two", server.address, task=False) as gate:
        answer = await gate.chat(model="sql", max_tokens=4)
        assert answer.status_code == 200
        assert answer.headers["x-everlearn-version"] == "1"
        assert gate.completions()[-1].model_served == NAMES[1]


def upstreams(server: Server) -> dict[str, Any]:
    return {"local": {"base_url": server.address, "kind": "vllm"}}

"""How soon a version that fails gets no more traffic: first bad answer -> 0 %, the whole way.

    python -m benchmarks.breach [--trials 20]

A real gateway, write-ahead log, collector, lake and controller in one process, at their defaults;
the version has half of 40 requests a second, answers for two seconds and then fails every time.
A first trial, in which the controller's libraries are loaded, is not counted.
"""

import argparse
import asyncio
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.figures import figure
from collector.collect import Collector
from collector.wal_source import WalSource
from everlearn.config import Service
from everlearn.lake.ducklake import open_lake
from everlearn.state import open_state
from everlearn.task import load_task
from gateway.routes import ArmRoute, read_routes
from serving.release.book import Book
from serving.release.leading import run as control
from serving.release.observations import answer_seconds
from serving.release.states import Phase, Release, Traffic, begin, change
from tests.gateway.backend import Backend, Call, answer, backend
from tests.gateway.door import Door, door

TASK = "text2sql"
NEW = ArmRoute(version="7", model="sql-7")
GOOD_SECONDS, MOST_SECONDS, PER_SECOND = 2.0, 60.0, 40


class Trial:
    """One release that breaks."""

    def __init__(self) -> None:
        self.broken = threading.Event()
        self.first_bad = 0.0

    async def reply(self, call: Call, writer: asyncio.StreamWriter) -> None:
        """As a model server whose new version breaks."""
        if call.path.endswith("/models"):
            writer.write(answer(b'{"object": "list", "data": []}'))
            return
        if self.broken.is_set() and call.body["model"] == NEW.model:
            self.first_bad = self.first_bad or time.monotonic()
            writer.write(answer(b'{"error": {"message": "broken"}}', 500))
            return
        message = {"role": "assistant", "content": "yes"}
        body = {"id": "x", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
        writer.write(answer(json.dumps(body).encode()))

    async def run(self, folder: Path) -> float:
        """Seconds from the first bad answer until the routes have left the version."""
        async with backend(self.reply) as upstream, door(folder, upstream.url) as gate:
            _ramp(gate.service)
            with _pipeline(gate.service):
                while not _routed(gate):
                    await asyncio.sleep(0.05)
                return await self._live(gate, upstream)

    async def _live(self, gate: Door, upstream: Backend) -> float:
        began = time.monotonic()
        asked: set[asyncio.Task[object]] = set()
        number = 0
        while time.monotonic() - began < MOST_SECONDS:
            if time.monotonic() - began > GOOD_SECONDS:
                self.broken.set()
            number += 1
            asked.add(asyncio.create_task(gate.chat(None, user=f"user-{number}")))
            await asyncio.sleep(1 / PER_SECOND)
            if self.first_bad and not _routed(gate):
                break
        await asyncio.gather(*asked)
        return time.monotonic() - self.first_bad


def _routed(gate: Door) -> bool:
    route = read_routes(gate.service.routes_path).tasks.get(TASK)
    return route is not None and route.challenger is not None


def _ramp(service: Service) -> None:
    declared = load_task(service, TASK).release_rules
    rules = declared.model_dump(mode="json")
    now = time.time()
    release = Release(
        release_id="rel", candidate=NEW, alpha=0.005, created_at=now,
        answer_seconds=answer_seconds(declared, None),
        rules={**rules, "steps": [50, 100], "guardrails": ["error_rate"], "min_dwell_seconds": 600},
    )  # fmt: skip
    begun = begin(Traffic(champion=ArmRoute(version="base", model="base")), release)
    with closing(open_state(service)) as state:
        loaded = change(begun, Phase.RAMPING, "loaded", now)
        Book(state).write(TASK, msgspec.structs.replace(loaded, notes=()))


@contextmanager
def _pipeline(service: Service) -> Iterator[None]:
    """Collector and controller, each in a thread."""
    stop = threading.Event()

    def collect() -> None:
        with closing(open_lake(service)) as lake, closing(WalSource(service.wal_path)) as source:
            Collector(source, lake, service.collector).run(stop.is_set, lambda _: None)

    controller = partial(control, service, stop)
    threads = [threading.Thread(target=each) for each in (collect, controller)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def main(trials: int) -> None:
    """One line: the median and the worst."""
    # Traffic moves without the registry; nobody listens there.
    os.environ["EVERLEARN_MLFLOW__TRACKING_URI"] = "http://127.0.0.1:9"
    os.environ["EVERLEARN_MLFLOW__TIMEOUT_SECONDS"] = "1"
    seconds = []
    for trial in range(trials + 1):
        with tempfile.TemporaryDirectory() as folder:
            found = asyncio.run(Trial().run(Path(folder)))
        if trial:
            seconds.append(found)
            print(f"{found:.2f} s", flush=True)
    p50, p99 = np.quantile(seconds, [0.5, 0.99])
    figure("first bad answer -> 0 %, p50", float(p50), "s", p99=round(float(p99), 2), trials=trials)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=20)
    main(parser.parse_args().trials)

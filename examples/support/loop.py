"""A dear champion replaced by a small model of one's own: `make example-support`.

Reads top to bottom. On day one somebody else's large model answers; people react to it through the
gateway; a small model learns from what they said, sits the exam at the door and is promoted because
it is not worse and costs a tenth. Exits 0 only if it was.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from everlearn.config import Service, load
from everlearn.errors import EverlearnError
from everlearn.stack import processes
from everlearn.supervise import Supervisor
from examples import models
from examples.support.house import SECONDS, House
from examples.support.people import Desk, Record, Score, score
from serving.release.states import ENDINGS

HERE = Path(__file__).parent
TASK = "support"
THUMBS, CORRECTIONS = 300, 100
MEASURED = 100
"""Kept tickets asked before and after."""
STUCK_SECONDS = 300.0


class Loop:
    """One run: the config, the clock of the story and the commands a person would type."""

    def __init__(self, config: Path) -> None:
        self.config, self.started = config, time.time()
        self.service: Service = load(config)
        gateway, server = self.service.gateway, self.service.model_server
        self.gateway = f"http://{gateway.host}:{gateway.port}/v1"
        self.server = f"http://{server.host}:{server.port}/v1"

    def say(self, text: str) -> None:
        print(f"[{time.time() - self.started:5.0f} s] {text}", flush=True)

    def json(self, *words: str, allowed: tuple[int, ...] = (0,)) -> Any:
        """What `everlearn WORDS --json` answers, its progress shown as it comes."""
        self.say(f"$ everlearn {' '.join(words)}")
        done = subprocess.run(
            [sys.executable, "-m", "everlearn", *words, "--json"],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "EVERLEARN_CONFIG": str(self.config)},
            timeout=3600,
        )
        if done.returncode not in allowed:
            raise EverlearnError(
                f"`everlearn {' '.join(words)}` ended with {done.returncode}: {done.stdout[-2000:]}"
            )
        return json.loads(done.stdout) if done.stdout.strip() else None


@click.command()
@click.option("--seed", default=1, show_default=True, help="Other seeds, other tickets and people.")
def main(seed: int) -> None:
    """Run it all; exits 0 only if our own model was promoted."""
    sys.exit(0 if run(seed) else 1)


def run(seed: int) -> bool:
    """Whether our own model was promoted."""
    prepare()
    loop = Loop(HERE / "everlearn.yaml")
    _move_aside(loop.service.data_path)
    port = int(loop.service.upstreams["house"].base_url.rsplit(":", 1)[1].removesuffix("/v1"))
    rows = processes(loop.service, loop.config, "local")
    with (
        House(port, seconds=SECONDS) as house,
        Supervisor(rows, loop.service.data_path) as supervisor,
    ):
        supervisor.start(lambda process: loop.say(f"{process.name} answers"))
        before = score(loop.server, "model", MEASURED)
        loop.say(f"the base model, on tickets nobody asked: {_shown(before)}")
        desk = Desk(loop.gateway, house.know, seed=seed)
        _day_one(loop, desk)
        version = _learn(loop)
        promoted = _replace(loop, desk, version)
        after = score(loop.gateway, TASK, MEASURED) if promoted else None
    _report(loop, desk, before=before, after=after)
    return promoted


def prepare() -> None:
    """Link the model beside the config."""
    link = HERE / "model"
    if link.is_symlink():
        link.unlink()
    link.symlink_to(models.smollm2())


def _move_aside(folder: Path) -> None:
    if folder.exists():
        previous = folder.with_name(f"{folder.name}-previous")
        shutil.rmtree(previous, ignore_errors=True)
        folder.rename(previous)


def _day_one(loop: Loop, desk: Desk) -> None:
    """People work with the house model until there is enough to learn from."""
    loop.say(f"people send tickets; wanted: {THUMBS} thumbs, {CORRECTIONS} corrections")
    asyncio.run(desk.work(lambda: desk.thumbs >= THUMBS and desk.corrections >= CORRECTIONS))
    right = sum(record.right for record in desk.records) / len(desk.records)
    loop.say(
        f"{len(desk.records)} tickets, {right:.1%} right; "
        f"{desk.thumbs} thumbs, {desk.corrections} corrections, {desk.confirmations} confirmed"
    )


def _learn(loop: Loop) -> str:
    loop.json("evaluate", TASK)
    outcome = loop.json("train", TASK)
    loop.say(outcome["reason"])
    version = str(outcome["version"])
    loop.say(loop.json("gate", TASK, version)["reason"])
    return version


def _replace(loop: Loop, desk: Desk, version: str) -> bool:
    """Release under live traffic, which ends by itself; whether it ended as promoted."""
    loop.json("release", "start", TASK, version)
    with _at_work(desk):
        events: list[dict[str, Any]] = []
        told, answered, moved = 0, len(desk.records), time.monotonic()
        while not (events and events[-1]["event"] in ENDINGS):
            if len(desk.records) > answered:
                answered, moved = len(desk.records), time.monotonic()
            if time.monotonic() - moved > STUCK_SECONDS:
                raise EverlearnError(f"no ticket was answered for {STUCK_SECONDS:g} s")
            time.sleep(2)
            events = _events(loop.service, version)
            for event in events[told:]:
                loop.say(f"{event['event']} {event['percent']:g} %: {event['reason']}")
            told = len(events)
    return bool(events[-1]["event"] == "promoted")


def _events(service: Service, version: str) -> list[dict[str, Any]]:
    from everlearn.lake.ducklake import open_lake

    lake = open_lake(service, read_only=True)
    try:
        sql = (
            "SELECT event, percent, reason FROM releases WHERE task = ? AND version = ? "
            "ORDER BY created_at"
        )
        return list(lake.read(sql, (TASK, version)).to_pylist())
    finally:
        lake.close()


@contextmanager
def _at_work(desk: Desk) -> Iterator[None]:
    """The desk goes on while the block runs."""
    done = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(desk.work(done.is_set)), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=120)


def _shown(found: Score) -> str:
    return (
        f"{found.right:.1%} right ({found.new_wording:.1%} of new wordings), "
        f"{found.valid:.1%} valid JSON"
    )


def _share(rows: list[Record]) -> str:
    right = sum(record.right for record in rows)
    return f"{right / len(rows):.1%} of {len(rows)}" if rows else "none"


def _report(loop: Loop, desk: Desk, *, before: Score, after: Score | None) -> None:
    """A table of what was reached."""
    house = [record for record in desk.records if record.version == "base"]
    own = [record for record in desk.records if record.version not in (None, "base")]
    rows = [
        ("failed requests", str(sum(record.error is not None for record in desk.records))),
        ("tickets right, house model", _share(house)),
        ("tickets right, own model", _share(own)),
        ("kept tickets, base model", _shown(before)),
        ("kept tickets, own model", _shown(after) if after else "not promoted"),
        ("minutes", f"{(time.time() - loop.started) / 60:.1f}"),
    ]
    width = max(len(name) for name, _ in rows)
    print("\n" + "\n".join(f"{name:<{width}}  {value}" for name, value in rows))
    subprocess.run(
        [sys.executable, "-m", "everlearn", "release", "show", TASK],
        env={**os.environ, "EVERLEARN_CONFIG": str(loop.config)},
        check=False,
    )


if __name__ == "__main__":
    main()

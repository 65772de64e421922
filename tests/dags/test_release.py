"""The release DAG waits in Airflow's triggerer; an ending that is no promotion skips, with why."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.builders import make_service

ROOT = Path(__file__).parents[2]
PLAY = """
import asyncio, importlib, json
from airflow.sdk.exceptions import AirflowSkipException, TaskDeferred
from everlearn.config import load
from everlearn.state import open_state
from serving.release.ended import UNDER_WAY, AwaitRelease
from serving.release.states import ENDED, Phase, Traffic, begin, change
from serving.release.book import Book
from tests.release.world import BASE, make_release

assert set(UNDER_WAY) == set(Phase) - ENDED
book = Book(open_state(load()))
wait = AwaitRelease(task_id="decided", everlearn_task="support", version="7")
try:
    wait.execute({})
except TaskDeferred as deferred:
    where, made_of = deferred.trigger.serialize()
    method = getattr(wait, deferred.method_name)
# As the triggerer does it.
module, _, name = where.rpartition(".")
trigger = getattr(importlib.import_module(module), name)(**{**made_of, "poll_seconds": 0.01})

async def one():
    async for event in trigger.run():
        return event.payload

async def told(*ending):
    traffic = begin(Traffic(champion=BASE), make_release(phase=Phase.LOADING))
    revision = book.write("support", traffic, (book.read("support") or (None, 0))[1])
    waiting = asyncio.create_task(one())
    for phase, reason in ending:
        await asyncio.sleep(0.05)
        assert not waiting.done(), phase
        traffic = change(traffic, phase, reason, 1.0)
        revision = book.write("support", traffic, revision)
    return await waiting

def ended(event):
    try:
        return ["green", method({}, event)]
    except AirflowSkipException as skipped:
        return ["skipped", str(skipped)]

ramping = (Phase.RAMPING, "loaded")
found = [
    ended(asyncio.run(told(ramping, (Phase.PROMOTED, "it is better")))),
    ended(asyncio.run(told(ramping, (Phase.ROLLED_BACK, "harm e-value 31")))),
    ended(asyncio.run(told((Phase.ERROR, "does not verify")))),
]
trigger._version = "6"
found.append(ended(asyncio.run(one())))
print("FOUND" + json.dumps(found))
"""


def test_it_is_green_when_promoted_and_skipped_with_the_reason_otherwise(tmp_path: Path) -> None:
    make_service(tmp_path)
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(tmp_path / "airflow"),
        "EVERLEARN_CONFIG": str(tmp_path / "everlearn.yaml"),
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PLAY],
        env=environment, capture_output=True, text=True, timeout=120, cwd=ROOT,
    )  # fmt: skip
    assert "FOUND" in done.stdout, done.stderr[-2000:]
    assert json.loads(done.stdout.split("FOUND")[1]) == [
        ["green", "version 7: promoted: it is better"],
        ["skipped", "version 7: rolled_back: harm e-value 31"],
        ["skipped", "version 7: error: does not verify"],
        ["skipped", "version 7: replaced: another version has been released since"],
    ]

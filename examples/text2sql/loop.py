"""The whole loop on one machine: live traffic to a better model, and back from a bad one.

Reads top to bottom. Users and the analyst are outside the product and talk to it over HTTP
only; every step of the loop is the command a person would type. Exits 0 only if the loop closed.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from everlearn.config import Service
from everlearn.errors import EverlearnError
from everlearn.stack import processes
from everlearn.supervise import Supervisor
from examples.text2sql import measure, report, spoil
from examples.text2sql.language import Kind
from examples.text2sql.live import Arrivals, LiveTraffic
from examples.text2sql.traffic import Traffic, accuracy
from serving.release.states import ENDINGS

TASK = "text2sql"
MARK = "made-by-demo"
"""A file by which a demo knows a folder that it may move."""
STUCK_SECONDS = 120.0
"""Without any new answer."""
Say = Callable[[str], None]


class Scale:
    """How much of everything: the full form, and the fast one for continuous integration."""

    def __init__(self, fast: bool) -> None:
        self.rate_per_second = 20.0
        self.training_rate_per_second = 4.0
        self.thumbs = 250 if fast else 600
        self.corrections = 60 if fast else 100
        self.questions = 100 if fast else 300
        """Asked per kind to measure accuracy, before and after."""
        self.method = "sft" if fast else "auto"
        self.after_seconds = 5.0 if fast else 20.0
        """Traffic on the new champion before the bad version comes."""
        self.jargon_target = 0.8 if fast else 0.95
        """Accuracy to reach: the fast form learns from half the feedback by one method."""


class Loop:
    """One run: the processes, the clock of the story and what it found."""

    def __init__(self, service: Service, config: Path, *, fast: bool, say: Say) -> None:
        self.service = service
        self.config = config
        self.fast = fast
        self.scale = Scale(fast)
        self.gateway = f"http://{service.gateway.host}:{service.gateway.port}/v1"
        self.started = time.time()
        self.story = report.Story()
        self._say = say

    def say(self, text: str) -> None:
        self._say(f"[{time.time() - self.started:4.0f} s] {text}")

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a part of the story."""
        self.say(name)
        begin = time.time() - self.started
        yield
        self.story.phases.append((name, begin, time.time() - self.started))

    def verb(self, *words: str, allowed: tuple[int, ...] = (0,)) -> str:
        """Output of `everlearn WORDS`, its progress shown as it comes."""
        self.say(f"$ everlearn {' '.join(words)}")
        done = subprocess.run(
            [sys.executable, "-m", "everlearn", *words],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "EVERLEARN_CONFIG": str(self.config)},
            timeout=1200,
        )
        if done.returncode not in allowed:
            raise EverlearnError(
                f"`everlearn {' '.join(words)}` ended with {done.returncode}: {done.stdout[-2000:]}"
            )
        return done.stdout

    def json(self, *words: str, allowed: tuple[int, ...] = (0,)) -> Any:
        """The same, parsed."""
        return json.loads(self.verb(*words, "--json", allowed=allowed))

    def wait(self, done: Callable[[], bool], moving: Callable[[], object], what: str) -> None:
        """Poll twice a second as long as `moving` changes: a busy machine is slow, not stuck."""
        seen, since = moving(), time.monotonic()
        while not done():
            now, state = time.monotonic(), moving()
            if state != seen:
                seen, since = state, now
            if now - since > STUCK_SECONDS:
                raise EverlearnError(
                    f"{what} did not happen: no change for {STUCK_SECONDS:g} s, still {seen}"
                )
            time.sleep(0.5)

    def accuracy(self) -> dict[str, float]:
        """By kind: share of right answers to questions that no user asks, through the gateway."""
        kinds: tuple[Kind, ...] = ("jargon", "formal")
        return {kind: accuracy(self.gateway, TASK, kind, self.scale.questions) for kind in kinds}


def run(service: Service, config: Path, *, fast: bool, report_path: Path, say: Say) -> bool:
    """Run the loop and write the report; True if it closed."""
    move_aside(service.data_path, say)
    loop = Loop(service, config, fast=fast, say=say)
    with Supervisor(processes(service, config, "local"), service.data_path) as supervisor:
        with loop.phase("start every process"):
            supervisor.start(
                lambda process: loop.say(f"  {process.name} answers"),
                waiting=lambda one, seconds: loop.say(f"  {one.name}: not yet, {seconds:.0f} s"),
            )
        with loop.phase("measure the base model"):
            before = loop.accuracy()
        traffic = Traffic(loop.gateway, rate_per_second=loop.scale.rate_per_second, seed=1)
        with LiveTraffic(traffic):
            arrivals = _collect_feedback(loop, traffic)
            version = _learn(loop, traffic)
            _ramp(loop, traffic, version)
            after = loop.accuracy()
            time.sleep(loop.scale.after_seconds)
            bad = _release_a_bad_version(loop, traffic, version)
    status = loop.json("status")
    loop.story.events = measure.release_events(service, TASK, loop.started)
    loop.story.answers = measure.judged_answers(traffic.records, loop.started)
    loop.story.measures = measure.table(
        loop, traffic.records, arrivals, before, after, status, version=version, bad=bad
    )
    report.write(loop.story, report_path, fast=fast)
    say("\n" + report.table(loop.story.measures) + f"\n\nreport: {report_path}")
    return all(row.ok for row in loop.story.measures if row.closes)


def own_folder(folder: Path) -> Path:
    """One of our own in it, unless $EVERLEARN_DATA_DIR names it: then it may be a demo's or new."""
    foreign = folder.exists() and any(folder.iterdir()) and not (folder / MARK).exists()
    return folder / "demo" if foreign or "EVERLEARN_DATA_DIR" not in os.environ else folder


def move_aside(folder: Path, say: Say) -> None:
    """A demo starts from nothing; what the one before it left is kept once."""
    if folder.exists():
        previous = folder.with_name(f"{folder.name}-previous")
        shutil.rmtree(previous, ignore_errors=True)
        folder.rename(previous)
        say(f"moved {folder} to {previous}")
    folder.mkdir(parents=True)
    (folder / MARK).write_text("What stands here was made by `everlearn demo`.\n")


def _collect_feedback(loop: Loop, traffic: Traffic) -> dict[str, float]:
    """Let people use the base model until there is enough to learn from."""
    scale = loop.scale

    told = time.monotonic()

    def enough() -> bool:
        nonlocal told
        if time.monotonic() - told > 15:
            told = time.monotonic()
            loop.say(f"  {len(traffic.records)} answers, {_given(traffic)}")
        return traffic.thumbs >= scale.thumbs and traffic.corrections >= scale.corrections

    with loop.phase("users ask, give thumbs; an analyst corrects"), Arrivals(loop.service) as seen:
        wanted = f"{scale.thumbs} thumbs and {scale.corrections} corrections"
        loop.wait(enough, lambda: len(traffic.records), wanted)
    loop.say(f"  {len(traffic.records)} answers, {_given(traffic)}")
    return seen.first_seen


def _given(traffic: Traffic) -> str:
    return (
        f"{traffic.thumbs} thumbs, {traffic.corrections} corrections, "
        f"{traffic.accepted} confirmed by the analyst"
    )


def _learn(loop: Loop, traffic: Traffic) -> str:
    """Judge, train, gate; the users go on asking, more quietly."""
    traffic.rate_per_second = loop.scale.training_rate_per_second
    with loop.phase("judge"):
        loop.verb("evaluate", TASK)
    with loop.phase("train"):
        outcome = loop.json("train", TASK, "--method", loop.scale.method)
    loop.story.tried = {row["name"]: row["heldout"] for row in outcome["tried"]}
    loop.story.chosen = outcome["method"]
    loop.story.training_reason = outcome["reason"]
    loop.say(outcome["reason"])
    loop.story.reward = measure.reward_curve(loop.service, TASK)
    version = str(outcome["version"])
    with loop.phase("gate"):
        loop.say(loop.json("gate", TASK, version)["reason"])
    return version


def _ramp(loop: Loop, traffic: Traffic, version: str) -> None:
    """Release under live traffic until the version is champion."""
    traffic.rate_per_second = loop.scale.rate_per_second
    with loop.phase("ramp the new version"):
        loop.verb("release", "start", TASK, version)
        _follow(loop, traffic, version, "promoted")


def _release_a_bad_version(loop: Loop, traffic: Traffic, champion: str) -> str:
    """Spoil the champion's adapter, release it, and watch it go back to nothing."""
    with loop.phase("release a spoiled version; it must be rolled back"):
        bad = spoil.register(loop.service, TASK, champion)
        reason = "spoiled on purpose, to see it rolled back"
        loop.verb("release", "start", TASK, bad, "--ungated", reason)
        _follow(loop, traffic, bad, "rolled_back")
    return bad


def _follow(loop: Loop, traffic: Traffic, version: str, ending: str) -> None:
    """Say every release event until `ending`; another ending is an error. The release itself ends
    by its `max_seconds`, so only traffic that has stopped can make it wait for ever."""
    told = 0

    def ended() -> bool:
        nonlocal told
        events = [
            event
            for event in measure.release_events(loop.service, TASK, loop.started)
            if event["version"] == version
        ]
        for event in events[told:]:
            loop.say(f"  {event['event']} {event['percent']:g} %: {event['reason']}")
        told = len(events)
        names = {event["event"] for event in events}
        wrong = names & (ENDINGS - {ending})
        if wrong:
            raise EverlearnError(f"version {version} ended as {wrong.pop()}, not {ending}")
        return ending in names

    loop.wait(ended, lambda: len(traffic.records), f"version {version}: {ending}")

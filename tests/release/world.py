"""A small world to release in: a lake, a state, routes, and users assigned as the gateway does."""

import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import yaml

from everlearn.config import Service
from everlearn.ids import new_id
from everlearn.lake.ducklake import DuckLake, open_lake
from everlearn.lake.store import Transaction
from everlearn.rules import ReleaseRules
from everlearn.state import open_state
from everlearn.task import Task, load_task
from gateway.assignment import Assignment, assign, draw
from gateway.routes import ArmRoute, TaskRoute, read_routes
from serving.release.book import Book
from serving.release.challengers import abreast, facing, running, settled
from serving.release.controller import TaskLoop
from serving.release.states import Phase, Release, Traffic, begin, change
from tests.builders import FakeClock, make_completion, make_service

Rows = list[dict[str, Any]]
BASE = ArmRoute(version="base", model="base-model")
CANDIDATE = ArmRoute(version="7", model="candidate-7", adapter_digest="7" * 64)


def make_rules(**overrides: Any) -> ReleaseRules:
    """Rules quick enough for a test."""
    fields: dict[str, Any] = {
        "steps": (5, 25, 50, 100),
        "min_dwell_seconds": 10,
        "unit_close_seconds": 5,
        "primary": "thumbs",
        "guardrails": ("error_rate", "good"),
        "expected_releases": 3,
        **overrides,
    }
    return ReleaseRules(**fields)


def make_release(rules: ReleaseRules | None = None, **overrides: Any) -> Release:
    """A release at its first step."""
    fields: dict[str, Any] = {
        "release_id": new_id("rel"),
        "candidate": CANDIDATE,
        "rules": (rules or make_rules()).model_dump(mode="json"),
        "alpha": 0.05,
        "created_at": 1_800_000_000.0,
        "phase": Phase.RAMPING,
        "stage_since": 1_800_000_000.0,
        "ramp_since": 1_800_000_000.0,
        **overrides,
    }
    return Release(**fields)


class Judge(NamedTuple):
    """The pairwise judge `better` of the task, and who answers."""

    address: str
    trusted: bool = True
    answers: str = "http://127.0.0.1:9/v1"


class World:
    """One task whose release is ramping, and a clock that moves only when told."""

    def __init__(
        self, folder: Path, rules: ReleaseRules, *, seed: int = 0, judge: Judge | None = None
    ) -> None:
        self.service = _declare(folder, rules, judge)
        self.task: Task = load_task(self.service, "text2sql")
        # An hour ago: scores are written with the machine's time, and come after the start.
        self.clock = FakeClock(time.time() - 3600)
        self.lake: DuckLake = open_lake(self.service)
        self.book = Book(open_state(self.service))
        self.dice = random.Random(seed)
        self.asked = self.releases = 0
        self.loop = TaskLoop(self.service, self.task, self.clock)

    def close(self) -> None:
        self.loop.close()
        self.lake.close()

    def ramp(self, **overrides: Any) -> None:
        """Put a release at its first step, as the controller does once it is loaded."""
        now = self.clock.now()
        rules = self.task.release_rules
        self.releases += 1
        # Who is assigned to which arm follows from the id: a new one each run is a new draw.
        name = {"release_id": f"rel_world_{self.releases}"}
        fields = {"phase": Phase.LOADING, "created_at": now, **name, **overrides}
        release = make_release(rules, **fields)
        begun = begin(Traffic(champion=BASE), release)
        traffic = change(begun, Phase.RAMPING, "loaded", now)
        self.book.write("text2sql", msgspec.structs.replace(traffic, notes=()))
        self.loop.tick()

    def ramp_several(self, *candidates: ArmRoute, **overrides: Any) -> None:
        """The same of several challengers."""
        now = self.clock.now()
        self.releases += 1
        name = {"release_id": f"rel_world_{self.releases}"}
        fields = {"phase": Phase.LOADING, "created_at": now, **name, **overrides}
        lead, *others = abreast(make_release(self.task.release_rules, **fields), candidates)
        traffic = begin(Traffic(champion=BASE), lead, *others)
        for each in running(traffic):
            traffic = change(facing(traffic, each.release_id), Phase.RAMPING, "loaded", now)
        self.book.write("text2sql", msgspec.structs.replace(settled(traffic), notes=()))
        self.loop.tick()

    def promote(self) -> None:
        """Put the release where it has just won."""
        self.ramp()
        found = self.book.read("text2sql")
        assert found is not None
        won = change(found[0], Phase.PROMOTED, "won", self.clock.now())
        self.book.write("text2sql", msgspec.structs.replace(won, notes=()), found[1])
        self.loop.tick()

    @property
    def release(self) -> Release:
        traffic = self.book.traffic("text2sql")
        assert traffic is not None
        assert traffic.release is not None
        return traffic.release

    @property
    def route(self) -> TaskRoute:
        return read_routes(self.service.routes_path).tasks["text2sql"]

    def live(
        self, seconds: int, users: int, champion: dict[str, float], candidate: dict[str, float]
    ) -> None:
        """So many seconds with so many new users in each; a tick every 5 s, until decided."""
        for _ in range(0, seconds, 5):
            self.ask(users * 5, champion, candidate)
            self.clock.sleep(5.0)
            self.loop.tick()
            if not self.release.active:
                return

    def restart(self) -> None:
        """A controller that was killed, and its successor."""
        self.loop.close()
        self.loop = TaskLoop(self.service, self.task, self.clock)

    def ask(
        self,
        users: int,
        champion: dict[str, float],
        candidate: dict[str, float],
        held: dict[str, float] | None = None,
        by_version: Mapping[str, dict[str, float]] | None = None,
    ) -> None:
        """New users ask once each; rates by arm (of several challengers `by_version`) of `good`,
        `thumbs` and `ok` (default 1)."""
        completions, feedback = [], []
        for _ in range(users):
            self.asked += 1
            unit = f"user-{self.asked}"
            route = self.route
            asks = make_completion(task="text2sql", unit=unit, received_at=self.clock.now())
            drawn = draw(route, asks) if route.challengers else None
            found = assign(route, "text2sql", unit, drawn)
            by_arm = {"challenger": candidate, "holdback": held or champion}
            version = self._version(route, found)
            rates = (by_version or {}).get(version) or by_arm.get(found.arm, champion)
            answered = self._happens(rates, "ok")
            completion_id = new_id("cmpl")
            completions.append(
                {
                    "completion_id": completion_id,
                    "task": "text2sql",
                    "unit": unit,
                    "draw": drawn,
                    "arm": found.arm,
                    "probability": found.probability,
                    "release": route.release,
                    "stage": route.stage,
                    "version": version,
                    "received_at": self.clock.now(),
                    "latency_ms": rates.get("latency_ms", 20.0),
                    "status": "ok" if answered else "upstream_error",
                    "messages": '[{"role": "user", "content": "hello"}]',
                    "response_text": "good" if self._happens(rates, "good") else "bad",
                }
            )
            feedback.append(
                {
                    "feedback_id": new_id("fb"),
                    "completion_id": completion_id,
                    "kind": "binary",
                    "name": "thumbs",
                    "value_bool": self._happens(rates, "thumbs"),
                    "author": "end_user",
                    "weight": 1.0,
                    "received_at": self.clock.now(),
                }
            )
        self._append(completions, feedback)

    def answer(self, unit: str, asked_at: float, **overrides: Any) -> None:
        """The champion's answer to one user, whose row comes now, whenever it was asked for."""
        route = self.route
        row = {
            **{"completion_id": new_id("cmpl"), "task": "text2sql", "unit": unit},
            **{"arm": "champion", "probability": 0.95, "version": "base", "status": "ok"},
            **{"release": route.release, "stage": route.stage, "received_at": asked_at},
        }
        self._append([{**row, **overrides}], [])

    def thumb(self, completion_id: str) -> None:
        """Somebody liked that answer, just now."""
        about = {"feedback_id": new_id("fb"), "completion_id": completion_id, "kind": "binary"}
        said = {"name": "thumbs", "value_bool": True, "author": "end_user", "weight": 1.0}
        self._append([], [{**about, **said, "received_at": self.clock.now()}])

    def _append(self, completions: Rows, feedback: Rows) -> None:
        def work(transaction: Transaction) -> None:
            transaction.append("completions", completions)
            transaction.append("feedback", feedback)

        self.lake.commit(work)

    def _version(self, route: TaskRoute, found: Assignment) -> str:
        challenger = route.challengers[found.which] if route.challengers else route.challenger
        arms = {"challenger": challenger, "holdback": route.holdback}
        return (arms.get(found.arm) or route.champion).version

    def _happens(self, rates: dict[str, float], name: str) -> bool:
        return self.dice.random() < rates.get(name, 1.0)


def history(lake: DuckLake, task: str, asked: Sequence[tuple[float, str, bool]]) -> None:
    """Answers of the champion before any release: when, to whom, and whether there was a thumb."""
    completions, scores = [], []
    for at, unit, thumb in asked:
        about = {"completion_id": new_id("cmpl"), "task": task}
        completions.append(
            {**about, "unit": unit, "arm": "champion", "received_at": at, "status": "ok"}
        )
        if thumb:
            scores.append({**about, "evaluator": "thumbs", "value": 0.6, "created_at": at})

    def work(transaction: Transaction) -> None:
        transaction.append("completions", completions)
        transaction.append("scores", scores)

    lake.commit(work)


def _declare(folder: Path, rules: ReleaseRules, judge: Judge | None) -> Service:
    # Nobody listens at these addresses: traffic moves without the registry.
    local: dict[str, Any] = {"base_url": "http://127.0.0.1:9/v1", "kind": "openai"}
    upstreams = {"local": local}
    pairwise: list[dict[str, Any]] = []
    if judge is not None:
        local |= {"base_url": judge.answers, "answer_timeout_seconds": 300}
        upstreams["judge"] = {"base_url": judge.address, "kind": "openai"}
        asks = {"model": "m", "upstream": "judge", "request": "{{item.prompt}}"}
        pairwise.append({"name": "better", "type": "pairwise_model", **asks})
    mlflow = {"tracking_uri": "http://127.0.0.1:9"}
    gateway = {"port": 0, "drain_seconds": 2.0}
    service = make_service(folder, mlflow=mlflow, upstreams=upstreams, gateway=gateway)
    good = {
        "name": "good",
        "type": "string_check",
        "input": "{{sample.output_text}}",
        "reference": "good",
        "operation": "eq",
    }
    task = {
        "task": "text2sql",
        "base_model": "base-model",
        "upstream": "local",
        "graders": [{"name": "thumbs", "type": "feedback"}, good, *pairwise],
        "judges": {"trusted": ["better"] if judge is not None and judge.trusted else []},
        "release": rules.model_dump(mode="json"),
    }
    (folder / "tasks" / "text2sql.yaml").write_text(yaml.safe_dump(task))
    return service

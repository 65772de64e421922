"""The controller as a process with a real model server and MLflow: load, verify, ramp, survive."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import yaml
from click.testing import CliRunner

from everlearn.cli import group
from everlearn.config import Service
from everlearn.errors import EverlearnError
from everlearn.ids import new_id
from everlearn.lake.ducklake import open_lake
from everlearn.state import open_state
from gateway.routes import TaskRoute, read_routes
from registry.states import VersionState
from registry.versions import ModelVersion, Registry
from serving.fleet import Fleet
from serving.release.book import Book
from tests.builders import make_service
from tests.release.versions import gated
from tests.release.world import history
from tests.serving.conftest import Server, running
from tests.serving.tiny import make_model

pytestmark = pytest.mark.slow


class Done(NamedTuple):
    """How a verb ended."""

    returncode: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Place:
    """A service with a model server, an MLflow server and one task."""

    service: Service
    server: Server
    registry: Registry
    task: str
    base: Path

    def version(self, seed: int, *, probes_of: int | None = None) -> ModelVersion:
        """A gated version; its probes may come from another adapter."""
        folder = self.service.root / f"trained-{seed}"
        return gated(self.registry, self.task, self.base, folder, seed=seed, probes_of=probes_of)

    def everlearn(self, *words: str) -> Done:
        """The verb, in this process: importing MLflow again each time would cost 3 s."""
        result = CliRunner().invoke(group, [*words, "--config", self.config])
        if isinstance(result.exception, EverlearnError):
            return Done(result.exception.exit_code, result.stdout, str(result.exception))
        return Done(result.exit_code, result.stdout, result.stderr)

    @property
    def config(self) -> str:
        return str(self.service.root / "everlearn.yaml")

    @property
    def route(self) -> TaskRoute | None:
        return read_routes(self.service.routes_path).tasks.get(self.task)

    def loaded(self) -> set[str]:
        with Fleet(self.service.upstreams["local"]) as fleet:
            return fleet.loaded()[self.server.address]

    @contextmanager
    def controller(self) -> Iterator[subprocess.Popen[bytes]]:
        """`everlearn releases run`; killed at the end if it still runs."""
        command = [sys.executable, "-m", "everlearn", "releases", "run", "--config", self.config]
        with (self.service.root / "releases.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ})
            try:
                yield process
            finally:
                process.kill()
                process.wait(10)

    def wait(self, done: Callable[[], Any], seconds: float = 150.0) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            log = self.service.root / "releases.log"
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.2)

    def phase(self) -> str:
        shown = self.everlearn("release", "show", self.task, "--json")
        assert shown.returncode == 0, shown.stderr
        return str(json.loads(shown.stdout)["phase"])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, mlflow_address: str) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("place")
    base = make_model(folder / "base")
    task = new_id("t").replace("_", "-")
    with running(base) as server:
        upstreams = {"local": {"base_url": server.address, "kind": "vllm"}}
        service = make_service(
            folder,
            upstreams=upstreams,
            mlflow={"tracking_uri": mlflow_address},
            releases={"tick_seconds": 0.3},
        )
        declaration = {
            "task": task,
            "base_model": "base",
            "upstream": "local",
            "graders": [{"name": "thumbs", "type": "feedback"}],
            # Nobody asks here: the ramp goes by time alone.
            "release": {
                "min_dwell_seconds": 1,
                "min_candidates": 0,
                "steps": [1, 5, 50, 100],
                "max_seconds": 600,
            },
        }
        (folder / "tasks" / "task.yaml").write_text(yaml.safe_dump(declaration))
        yield Place(service, server, Registry(service), task, base)


def test_a_version_is_loaded_verified_ramped_and_rolled_back_through_a_kill(place: Place) -> None:
    version = place.version(seed=1)
    words = ("release", "start", place.task, version.version)
    refused = place.everlearn(*words)
    assert refused.returncode == 2
    assert "no grader sees every answer" in refused.stderr
    assert "--trust-raters" in refused.stderr
    started = place.everlearn(*words, "--trust-raters")
    assert started.returncode == 0, started.stderr
    assert "gate passed: gain 0.4 > 0" in started.stdout
    assert "nothing is known yet of how long it takes" in started.stdout
    assert place.route is None

    with place.controller() as controller:
        place.wait(lambda: place.route is not None and place.route.challenger is not None)
        controller.send_signal(signal.SIGKILL)
        controller.wait(10)
    assert version.model_name in place.loaded()
    route = place.route
    assert route is not None
    assert route.challenger is not None
    assert (route.challenger.model, route.challenger.template_hash) == (version.model_name, "t1")
    assert route.champion.version == "base"

    httpx.post(
        f"{place.server.address}/unload_lora_adapter", json={"lora_name": version.model_name}
    ).raise_for_status()
    with place.controller() as controller:
        # It goes on ramping, and loads what the replica has lost.
        place.wait(lambda: (place.route or route).challenger_share == 0.5)
        place.wait(lambda: version.model_name in place.loaded())
        place.wait(
            lambda: place.registry.get(place.task, version.version).state is VersionState.RAMPING
        )
        assert place.registry.aliases(place.task)["challenger"] == version.version
        command = [sys.executable, "-m", "everlearn", "releases", "run", "--config", place.config]
        second = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert second.returncode == 2
        assert "another release controller runs already" in second.stderr

        begin = time.monotonic()
        done = place.everlearn("rollback", place.task, "--reason", "to see")
        assert done.returncode == 0, done.stderr
        assert time.monotonic() - begin < 10
        assert (place.route or route).challenger is None
        place.wait(
            lambda: (
                place.registry.get(place.task, version.version).state is VersionState.ROLLED_BACK
            )
        )
        controller.send_signal(signal.SIGTERM)
        assert controller.wait(20) == 0
    shown = place.everlearn("release", "show", place.task)
    lines = shown.stdout.splitlines()
    assert "is rolled_back at 0 %" in lines[0]
    events = [line.split()[2] for line in lines[1:]]
    assert events == ["started", "step", "step", "step", "rolled_back"]
    assert "loaded and verified on every replica" in shown.stdout
    assert lines[-1].endswith("to see")


def test_a_version_that_does_not_verify_never_gets_traffic(place: Place) -> None:
    version = place.version(seed=2, probes_of=3)
    begun = place.everlearn(
        "release", "start", place.task, version.version, "--trust-raters", "--json"
    )
    assert begun.returncode == 0, begun.stderr
    assert json.loads(begun.stdout)["version"] == version.version
    before = place.route
    with place.controller():
        place.wait(lambda: place.phase() == "error")
        place.wait(
            lambda: place.registry.get(place.task, version.version).state is VersionState.REJECTED
        )
    assert place.route == before
    assert version.model_name not in place.loaded()
    shown = json.loads(place.everlearn("release", "show", place.task, "--json").stdout)
    assert "does not verify" in shown["reason"]


def test_two_challengers_are_loaded_share_the_traffic_and_are_told_apart(place: Place) -> None:
    one, two = place.version(seed=6), place.version(seed=7)
    words = ("release", "start", place.task, one.version, "--also", two.version, "--trust-raters")
    twice = place.everlearn(*words, "--also", one.version)
    assert twice.returncode == 2
    assert "name each challenger once" in twice.stderr
    alone = place.everlearn(*words, "--ungated", "x")
    assert alone.returncode == 2
    assert "it is released alone" in alone.stderr
    started = place.everlearn(*words)
    assert started.returncode == 0, started.stderr
    assert f"beside it version {two.version}" in started.stdout
    with place.controller():
        place.wait(lambda: place.route is not None and place.route.challenger_share == 0.5)
        assert place.route is not None
        arms = [arm and arm.model for arm in place.route.challengers]
        assert arms == [one.model_name, two.model_name]
        assert {one.model_name, two.model_name} <= place.loaded()
        place.wait(lambda: place.registry.aliases(place.task).get("challenger") == one.version)
        assert place.everlearn("release", "abort", place.task).returncode == 0
        states = VersionState.RETIRED
        place.wait(
            lambda: all(
                place.registry.get(place.task, each.version).state is states for each in (one, two)
            )
        )
    shown = json.loads(place.everlearn("release", "show", place.task, "--json").stdout)
    (other,) = shown["beside"]
    assert {shown["version"], other["version"]} == {one.version, two.version}
    assert [row["event"] for row in other["events"]][:2] == ["started", "step"]
    assert {shown["phase"], other["phase"]} == {"aborted"}
    said = place.everlearn("release", "show", place.task).stdout
    assert f"version {one.version} is aborted" in said
    assert f"version {two.version} is aborted" in said


def test_what_is_not_gated_is_refused_unless_a_reason_is_given(place: Place) -> None:
    version = place.version(seed=4)
    place.registry.tag(place.task, version.version, state="registered")
    refused = place.everlearn("release", "start", place.task, version.version)
    assert refused.returncode == 2
    assert "is registered, not gated: run `everlearn gate" in refused.stderr
    words = ("release", "start", place.task, version.version, "--ungated", "to see it fail")
    allowed = place.everlearn(*words)
    assert allowed.returncode == 0, allowed.stderr
    assert "released without a passed gate: to see it fail" in allowed.stdout
    twice = place.everlearn(*words)
    assert twice.returncode == 3
    assert "one release at a time" in twice.stderr
    assert place.everlearn("release", "abort", place.task).returncode == 0
    assert place.phase() == "aborted"


def test_what_the_traffic_cannot_decide_is_refused_unless_anyway(place: Place) -> None:
    """600 s at the most, and a thumb every two minutes for two hours."""
    version = place.version(seed=5)
    now = time.time()
    lake = open_lake(place.service)
    seen = [(now - 7200 + 12 * n, f"user-{n}", n % 10 == 0) for n in range(600)]
    history(lake, place.task, seen)
    lake.close()
    words = ("release", "start", place.task, version.version, "--trust-raters")
    refused = place.everlearn(*words)
    assert refused.returncode == 3
    assert "could not be proven within release.max_seconds 600" in refused.stderr
    assert "release.max_seconds: " in refused.stderr
    traffic = Book(open_state(place.service)).traffic(place.task)
    assert traffic is None or traffic.release is None or not traffic.release.active
    started = place.everlearn(*words, "--anyway")
    assert started.returncode == 0, started.stderr
    assert "+20 points: " in started.stdout
    assert "started anyway: even +20 points could not be proven" in started.stdout
    assert place.everlearn("release", "abort", place.task).returncode == 0


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("release", "start", "TASK", "99"), "no version 99"),
        (("release", "start", "TASK", "base", "--ungated", "x"), "the base model is no candidate"),
        (("release", "show", "unknown"), "task 'unknown' does not exist"),
        (("release", "abort", "TASK"), "no release of"),
        (("rollback", "TASK"), "no champion before"),
    ],
)
def test_bad_requests_end_with_2_and_one_line(
    place: Place, words: tuple[str, ...], reason: str
) -> None:
    done = place.everlearn(*(place.task if word == "TASK" else word for word in words))
    assert done.returncode == 2
    assert reason in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1

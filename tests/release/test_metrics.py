"""What the release controller says of itself."""

import logging
import threading
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from everlearn.errors import LakeError
from everlearn.state import open_state
from serving.release.leading import _forever
from serving.release.lease import Lease
from tests.builders import make_service


class Loop:
    """A task whose rounds end as told; the last one stops the controller."""

    name, tick_seconds = "measured", 0.0

    def __init__(self, rounds: list[Exception | None], stop: threading.Event) -> None:
        self._rounds, self._stop = rounds, stop

    def reload(self) -> None:
        """Nothing changes."""

    def tick(self) -> None:
        ends = self._rounds.pop(0)
        if not self._rounds:
            self._stop.set()
        if ends is not None:
            raise ends

    def glance(self) -> None:
        """Nothing fails."""

    def follow(self) -> None:
        raise AssertionError("this controller leads")

    def close(self) -> None:
        """Nothing is open."""


def value(name: str) -> float:
    return REGISTRY.get_sample_value(f"everlearn_releases_{name}", {"task": "measured"}) or 0.0


def test_rounds_that_end_and_rounds_that_fail_are_told_apart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    state = open_state(make_service(tmp_path))
    lease = Lease(state, "here", seconds=1e9)
    assert lease.renew()
    crashes: list[Exception] = []

    def run(*rounds: Exception | None) -> tuple[float, float]:
        stop = threading.Event()
        loop: Any = Loop(list(rounds), stop)
        _forever(lambda: loop, lease, stop, crashes)
        return value("failed_rounds_total"), value("last_round_timestamp_seconds")

    failed, last = run(LakeError("away"), LakeError("away"))
    assert (failed, last) == (2.0, 0.0)
    failed, last = run(LakeError("away"), None)
    assert failed == 3.0
    assert last > 1.7e9
    assert crashes == []
    state.close()

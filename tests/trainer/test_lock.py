"""One training per task, and what a dead one left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from everlearn.config import Service
from everlearn.errors import TrainingBusy
from everlearn.state import open_state
from registry.training import KIND, STALE_SECONDS
from tests.builders import make_service
from trainer import lock
from trainer.lock import alive, holding, myself


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return make_service(tmp_path)


def put(service: Service, **changes: object) -> None:
    """Change the lock's document behind the holder's back."""
    state = open_state(service)
    found = state.get(KIND, "t")
    document, revision = found or ({"holder": None, "beat": 0.0, "run": None}, 0)
    state.put(KIND, "t", {**document, **changes}, revision)
    state.close()


def test_a_second_training_is_told_who_is_at_work(service: Service) -> None:
    with (
        holding(service, "t"),
        pytest.raises(TrainingBusy, match=rf"process {os.getpid()} on .*--wait SECONDS") as busy,
        holding(service, "t"),
    ):
        pass
    assert busy.value.exit_code == 3
    with holding(service, "another"), holding(service, "t"):
        pass


def test_a_second_training_waits_for_the_first(service: Service) -> None:
    class Ends:
        """A clock whose sleep ends the first training."""

        def now(self) -> float:
            return time.time()

        def sleep(self, seconds: float) -> None:
            put(service, holder=None)

    with holding(service, "t"), holding(service, "t", wait_seconds=60, clock=Ends()) as second:
        assert second.run is None


def test_a_killed_process_has_lost_the_lock_at_once_and_its_run_is_known(
    service: Service, tmp_path: Path
) -> None:
    script = (
        "import time; from pathlib import Path; from everlearn.config import load;"
        "from trainer.lock import holding;"
        f"lock = holding(load(Path({str(tmp_path / 'everlearn.yaml')!r})), 't');"
        "held = lock.__enter__();"
        "held.keep({'run_id': 'r1'}); print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(TrainingBusy), holding(service, "t"):
            pass
        child.send_signal(signal.SIGKILL)
        child.wait()
        with holding(service, "t") as held:
            assert held.run == {"run_id": "r1"}
            held.keep(None)
    with holding(service, "t") as held:
        assert held.run is None


def test_a_holder_elsewhere_is_dead_when_it_is_silent() -> None:
    elsewhere = {**myself(), "host": "another/boot/namespace"}
    assert alive(elsewhere, beat=100.0, now=100.0 + STALE_SECONDS - 1)
    assert not alive(elsewhere, beat=100.0, now=100.0 + STALE_SECONDS)


def test_a_later_process_of_the_same_number_is_not_taken_for_the_holder() -> None:
    assert alive(myself(), beat=0.0, now=1e9)
    assert not alive({**myself(), "started": "1"}, beat=1e9, now=1e9)


def test_who_lost_the_lock_keeps_nothing(service: Service) -> None:
    with holding(service, "t") as held:
        put(service, run={"run_id": "another"})
        with pytest.raises(TrainingBusy, match="another training took the lock over"):
            held.keep({"run_id": "mine"})
        with pytest.raises(TrainingBusy):
            held.check()
    state = open_state(service)
    found = state.get(KIND, "t")
    assert found is not None
    assert found[0]["run"] == {"run_id": "another"}
    state.close()


def test_a_beat_keeps_the_lock(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.01)
    state = open_state(service)
    with holding(service, "t"):
        first = state.get(KIND, "t")
        assert first is not None
        until = time.monotonic() + 10
        while (found := state.get(KIND, "t")) == first:
            assert time.monotonic() < until
        assert found is not None
        assert found[0]["beat"] > first[0]["beat"]
    state.close()

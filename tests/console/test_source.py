"""What is dear is looked at once for all who watch; what is cheap, every time."""

import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from console import source as module
from console.source import CHEAP_SECONDS, SHARE, Source
from tests.builders import make_service


class Look:
    """Costs what it is told, and answers how often it was made."""

    def __init__(self) -> None:
        self.now, self.cpu, self.cost, self.made = 100.0, 0.0, 0.0, 0

    def __call__(self) -> int:
        self.cpu += self.cost
        self.made += 1
        return self.made


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch) -> Look:
    made = Look()
    clocks = SimpleNamespace(
        time=time.time, monotonic=lambda: made.now, process_time=lambda: made.cpu
    )
    monkeypatch.setattr(module, "time", clocks)
    return made


def test_what_is_cheap_is_looked_at_each_time(tmp_path: Path, look: Look) -> None:
    source = Source(make_service(tmp_path))
    look.cost = CHEAP_SECONDS
    assert [source.kept("a", look).value for _ in range(3)] == [1, 2, 3]


def test_what_is_dear_costs_its_share_of_a_processor_however_many_watch(
    tmp_path: Path, look: Look
) -> None:
    source, seconds = Source(make_service(tmp_path)), 0
    look.cost = 0.4
    for _ in range(100):
        source.kept("a", look)
        look.now += 1
        seconds += 1
    assert look.cpu / seconds <= SHARE * 1.01
    assert look.made == 5


def test_one_look_does_not_answer_for_another(tmp_path: Path, look: Look) -> None:
    source = Source(make_service(tmp_path))
    look.cost = 1.0
    assert [source.kept(key, look).value for key in ("a", "b", "a", "b")] == [1, 2, 1, 2]


def test_what_waits_and_does_not_work_is_kept_as_long_as_it_is_told(
    tmp_path: Path, look: Look
) -> None:
    source = Source(make_service(tmp_path))
    told = source.kept("a", look, seconds=5.0)
    look.now += 4.9
    assert source.kept("a", look, seconds=5.0) == told
    look.now += 0.2
    assert source.kept("a", look, seconds=5.0).value == 2


def test_a_look_that_fails_is_made_again(tmp_path: Path, look: Look) -> None:
    source = Source(make_service(tmp_path))

    def fail() -> int:
        raise ConnectionError("the lake is away")

    with pytest.raises(ConnectionError):
        source.kept("a", fail)
    assert source.kept("a", look).value == 1

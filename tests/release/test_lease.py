"""One controller leads; kills, absences and clocks that go back lead to the same decision."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from everlearn.config import Service
from everlearn.errors import LakeError, StateError
from everlearn.state import State, StateConflict, open_state
from serving.release import controller, observations
from serving.release.book import Book
from serving.release.controller import TaskLoop
from serving.release.history import events
from serving.release.lease import Lease, holder
from serving.release.observations import frozen
from serving.release.states import Phase, Traffic, begin
from serving.release.verbs import Desk
from tests.builders import make_service
from tests.release.world import BASE, World, make_release, make_rules

GOOD = {"good": 0.97, "thumbs": 0.9}
FAIR = {"good": 0.97, "thumbs": 0.5}
SPOILED = {"good": 0.0, "thumbs": 0.05}


class Watch:
    """A monotonic clock of one host."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = open_state(make_service(tmp_path))
    yield state
    state.close()


def test_one_leads_and_the_other_follows_until_the_leader_is_dead(state: State) -> None:
    here, there = Watch(), Watch()
    there.now = 5.0  # nobody compares the clocks of two hosts
    first, second = Lease(state, "a", monotonic=here), Lease(state, "b", monotonic=there)
    assert first.renew()
    assert not second.renew()
    for _ in range(10):
        here.now += 5
        there.now += 5
        assert first.renew()
        assert not second.renew()
    # The first hangs: it stops believing before the second starts to.
    here.now += 15
    there.now += 14.9
    assert not first.held
    assert not second.renew()
    there.now += 0.2
    assert second.renew()
    assert second.held
    assert not first.renew()
    assert first.leader == "b"


def test_a_leader_that_is_started_again_leads_at_once_and_a_stopped_one_lets_go(
    state: State,
) -> None:
    assert Lease(state, "a").renew()
    again = Lease(state, "a")
    assert again.renew()
    again.give_up()
    assert not again.held
    assert Lease(state, "b").renew()


def test_of_two_that_take_a_dead_lease_one_gets_it(state: State) -> None:
    Lease(state, "dead", seconds=0.0).renew()
    found: list[bool] = []
    leases = [Lease(state, name) for name in "bcdefgh"]
    ready = threading.Barrier(len(leases))

    def take(lease: Lease) -> None:
        ready.wait()
        found.append(lease.renew())

    threads = [threading.Thread(target=take, args=(lease,)) for lease in leases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(found) == 1


def test_a_state_store_that_is_away_keeps_the_lease_only_until_it_runs_out(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Watch()
    lease = Lease(state, "a", monotonic=clock)
    assert lease.renew()

    def away(*_: Any) -> None:
        raise StateError("state store: away")

    monkeypatch.setattr(State, "get", away)
    assert lease.try_renew()
    clock.now += 16
    assert not lease.try_renew()
    lease.give_up()


def test_the_name_of_a_controller_is_its_place(tmp_path: Path) -> None:
    one, other = make_service(tmp_path / "a"), make_service(tmp_path / "b")
    assert holder(one) != holder(other)
    assert holder(one) == holder(Service(**one.model_dump()))


def test_two_leaders_at_once_end_a_release_once_and_count_no_unit_twice(
    make_world: Callable[..., World],
) -> None:
    world = make_world(make_rules(guardrails=("error_rate",)))
    world.ramp()
    second = TaskLoop(world.service, world.task, world.clock)
    for _ in range(20):
        world.ask(60, FAIR, GOOD)
        world.clock.sleep(15.0)
        world.loop.tick()
        second.tick()
        if not world.release.active:
            break
    second.close()
    assert world.release.phase is Phase.PROMOTED
    told = [row["event"] for row in events(world.lake, "text2sql")]
    assert told.count("promoted") == 1
    rows = frozen(world.lake, world.release.release_id)
    keys = [(row.metric, row.unit, row.stage) for row in rows]
    assert len(set(keys)) == len(keys)
    assert [row.position for row in rows] == list(range(len(rows)))


class Killed(BaseException):
    """As kill -9: nobody catches it."""


def story(world: World) -> list[Any]:
    """The same users in every telling; ticks go on after a kill until one is done."""
    world.ramp(release_id="rel-story")
    for _ in range(12):
        world.ask(60, FAIR, SPOILED)
        world.clock.sleep(10.0)
        Nemesis.armed = True
        while True:
            try:
                world.loop.tick()
                break
            except Killed:
                world.restart()
        Nemesis.armed = False
        if not world.release.active:
            break
    world.loop.tick()
    rows = events(world.lake, "text2sql")
    units = frozen(world.lake, "rel-story")
    return [[(row["event"], row["percent"], row["reason"]) for row in rows], units]


class Nemesis:
    """Kills once before and once after each thing that a tick writes."""

    armed = False

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        self.deaths: list[str] = []
        for owner, name in (
            (observations, "freeze"),
            (Book, "write"),
            (Book, "tell_lake"),
            (controller, "put_route"),
            (controller, "sync_route"),
        ):
            self._arm(owner, name)

    def _arm(self, owner: Any, name: str) -> None:
        real, todo = getattr(owner, name), ["before", "after"]

        def deadly(*arguments: Any, **named: Any) -> Any:
            if self.armed and "before" in todo:
                todo.remove("before")
                self._die(f"before {name}")
            result = real(*arguments, **named)
            if self.armed and "after" in todo:
                todo.remove("after")
                self._die(f"after {name}")
            return result

        self._patch.setattr(owner, name, deadly)

    def _die(self, where: str) -> None:
        self.deaths.append(where)
        raise Killed(where)


def test_killed_before_and_after_every_write_it_comes_to_the_same_decision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = make_rules(min_dwell_seconds=5, guardrails=("error_rate",), steps=(25, 50, 100))
    tellings, begun = [], time.time()
    for name in ("undisturbed", "killed"):
        monkeypatch.setattr("tests.release.world.new_id", _counter(name))
        monkeypatch.setattr("tests.release.world.time.time", lambda: begun)
        (tmp_path / name).mkdir()
        world = World(tmp_path / name, rules, seed=4)
        if name == "killed":
            deaths = Nemesis(monkeypatch).deaths
            tellings.append(story(world))
            assert len(deaths) == 10
        else:
            tellings.append(story(world))
        assert world.release.phase is Phase.ROLLED_BACK
        assert world.route.champion == BASE
        world.close()
    assert tellings[0][0] == tellings[1][0]
    assert tellings[0][1] == tellings[1][1]


def _counter(_: str) -> Callable[[str], str]:
    numbers = iter(range(10**6))
    return lambda prefix: f"{prefix}-{next(numbers):06d}"


def test_a_clock_that_goes_back_holds_the_ramp_and_counts_nobody_twice(
    make_world: Callable[..., World],
) -> None:
    world = make_world(make_rules(min_dwell_seconds=5, guardrails=("error_rate",)))
    world.ramp()
    world.ask(60, FAIR, GOOD)
    world.clock.sleep(10.0)
    world.loop.tick()
    before, stage = frozen(world.lake, world.release.release_id), world.release.stage
    world.clock.sleep(-3600.0)
    for _ in range(2):
        world.ask(20, FAIR, SPOILED)
        world.loop.tick()
        world.clock.sleep(10.0)
    assert world.release.active
    assert world.release.stage == stage
    world.clock.sleep(3600.0)
    for _ in range(6):
        world.ask(60, FAIR, GOOD)
        world.clock.sleep(20.0)
        world.loop.tick()
        if world.release.stage > stage:
            break
    after = frozen(world.lake, world.release.release_id)
    assert after[: len(before)] == before
    keys = [(row.metric, row.unit, row.stage) for row in after]
    assert len(set(keys)) == len(keys)
    assert world.release.stage > stage


def test_a_lake_that_is_away_at_the_end_keeps_the_event_until_it_is_back(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world()
    world.ramp()
    world.ask(40, FAIR, FAIR)

    def away(*_: Any) -> None:
        raise LakeError("lake: away")

    with monkeypatch.context() as patched:
        patched.setattr(type(world.loop._lake), "commit", away)
        Desk(world.service, world.task, world.clock).abort("enough")
        with pytest.raises(LakeError):
            world.loop.tick()
        assert world.route.challenger is None
        traffic = world.book.traffic("text2sql")
        assert traffic is not None
        assert [event.event for event in traffic.events] == ["aborted"]
    world.loop.tick()
    assert [row["event"] for row in events(world.lake, "text2sql")][-1] == "aborted"
    # MLflow has been away all the time: what it must know waits too.
    traffic = world.book.traffic("text2sql")
    assert traffic is not None
    assert traffic.events == ()
    assert [(note.kind, note.name) for note in traffic.notes][-2:] == [
        ("state", "retired"), ("alias", "challenger"),
    ]  # fmt: skip


def test_an_outbox_is_emptied_though_the_document_moves_meanwhile(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world()
    begun = begin(Traffic(champion=BASE), make_release(phase=Phase.LOADING))
    world.book.write("text2sql", begun)
    real = Book.write
    others = [lambda: Desk(world.service, world.task).abort("enough")]

    def raced(book: Book, *arguments: Any) -> int:
        if others:
            others.pop()()
        return real(book, *arguments)

    monkeypatch.setattr(Book, "write", raced)
    world.book.tell_lake("text2sql", world.lake)
    assert [row["event"] for row in events(world.lake, "text2sql")] == ["started"]
    traffic = world.book.traffic("text2sql")
    assert traffic is not None
    assert [event.event for event in traffic.events] == ["aborted"]
    with pytest.raises(StateConflict):
        world.book.write("text2sql", begun, 1)

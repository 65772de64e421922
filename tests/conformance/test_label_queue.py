"""What the label queue must do on every form of the state store."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from evaluators.queue import Candidate, Progress, Queue, Source, Taken
from everlearn.config import Service
from everlearn.errors import NotFound
from everlearn.state import State, open_state
from everlearn.task import Task
from tests.builders import FakeClock
from tests.evaluators.graders import make_task

CHECK = {
    "name": "same", "type": "string_check", "operation": "eq", "input": "a", "reference": "b",
}  # fmt: skip


def by_chance(name: str, place: float, **fields: Any) -> Candidate:
    return candidate(name, "random", place, probability=0.5, **fields)


def candidate(name: str, source: Source, place: float, **fields: Any) -> Candidate:
    return Candidate(**{
        "completion_id": name, "content": f"content of {name}", "source": source,
        "why": "a test", "place": place, **fields,
    })  # fmt: skip


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def state(service: Service) -> Iterator[State]:
    state = open_state(service)
    yield state
    state.close()


@pytest.fixture
def task() -> Task:
    return make_task(Path(), CHECK, labels={"max_open": 8, "lease_minutes": 10})


@pytest.fixture
def queue(state: State, task: Task, clock: FakeClock) -> Queue:
    return Queue(state, task, clock)


def test_two_labellers_never_hold_the_same_item(service: Service, task: Task) -> None:
    """Sixteen at once, each with a connection of his own, and fewer items than labellers."""
    wide = make_task(Path(), CHECK, labels={"max_open": 100})

    def work(who: str) -> list[str]:
        state, found = open_state(service), []
        queue = Queue(state, wide)
        while (item := queue.next(who)) is not None:
            found.append(item.completion_id)
            assert queue.label(item.completion_id, who, "right")
        state.close()
        return found

    state = open_state(service)
    names = [f"c{number:02}" for number in range(40)]
    assert Queue(state, wide).offer(by_chance(name, 0.1) for name in names) == 40
    with ThreadPoolExecutor(8) as pool:
        found = [name for each in pool.map(work, map(str, range(8))) for name in each]
    assert sorted(found) == names
    held = {who: Queue(state, wide).next(who) for who in ("ann", "bob")}
    assert held == {"ann": None, "bob": None}
    state.close()


def test_whoever_asks_again_gets_what_he_holds_until_the_lease_runs_out(
    queue: Queue, clock: FakeClock
) -> None:
    queue.offer([by_chance("a", 0.1), by_chance("b", 0.2)])
    assert [_name(queue.next(who)) for who in ("ann", "ann", "bob", "cy")] == ["a", "a", "b", None]
    clock.sleep(601)
    assert _name(queue.next("cy")) == "a"
    with pytest.raises(Taken, match="a is before somebody else"):
        queue.hold("a", "ann")
    # Nobody took b meanwhile: it is still bob's to judge.
    assert queue.hold("b", "bob").completion_id == "b"
    assert queue.label("b", "bob", "wrong")
    with pytest.raises(Taken, match="b was labelled meanwhile"):
        queue.hold("b", "ann")
    with pytest.raises(NotFound, match="x is not in the label queue"):
        queue.hold("x", "ann")


def test_half_of_what_is_asked_is_by_chance(queue: Queue) -> None:
    queue.offer(by_chance(f"r{number}", number / 10) for number in range(4))
    queue.offer(candidate(f"d{number}", "disagreement", number / 10) for number in range(4))
    asked = []
    while (item := queue.next("ann")) is not None:
        asked.append(item.completion_id)
        queue.label(item.completion_id, "ann", "right")
    assert asked == ["r0", "d0", "r1", "d1", "r2", "d2", "r3", "d3"]
    assert queue.progress("ann") == Progress(0, 8, 0, 4, 8)


def test_a_skipped_item_waits_for_somebody_else_and_leaves_when_two_cannot_tell(
    queue: Queue,
) -> None:
    queue.offer([by_chance("a", 0.1)])
    assert queue.skip("a", "ann", "  not my field ")
    assert queue.next("ann") is None
    assert _name(queue.next("bob")) == "a"
    assert queue.skip("a", "bob")
    assert (queue.next("cy"), queue.progress().skipped) == (None, 1)
    assert not queue.skip("a", "cy")


def test_what_was_decided_last_is_undone_first(queue: Queue, clock: FakeClock) -> None:
    queue.offer([by_chance("a", 0.1), by_chance("b", 0.2)])
    queue.label("a", "ann", "right")
    clock.sleep(1)
    queue.skip("b", "ann", "what?")
    last = queue.last("ann")
    assert last is not None
    assert (last.completion_id, last.state, last.verdict) == ("b", "open", "what?")
    assert not queue.undo("b", "bob")
    assert queue.undo("b", "ann")
    assert _name(queue.next("ann")) == "b"
    last = queue.last("ann")
    assert last is not None
    assert (last.completion_id, last.state) == ("a", "labelled")
    assert queue.undo("a", "ann")
    assert queue.last("ann") is None
    assert queue.progress().open == 2


def test_what_two_are_to_label_waits_for_the_second(state: State, clock: FakeClock) -> None:
    task = make_task(Path(), CHECK, labels={"overlap_percent": 100})
    queue = Queue(state, task, clock)
    queue.offer([by_chance("a", 0.1), candidate("b", "disagreement", 0.2)])
    assert queue.label("a", "ann", "right")
    last = queue.last("ann")
    assert last is not None
    assert (last.completion_id, last.state, last.verdict) == ("a", "labelled", "right")
    assert queue.label("b", "ann", "wrong")
    assert queue.next("ann") is None, "nobody is asked the same twice"
    assert _name(queue.next("bob")) == "a", "what worth alone chose is asked once"
    assert queue.label("a", "bob", "wrong")
    assert queue.next("cy") is None
    assert queue.progress().labelled == 2
    assert queue.undo("a", "bob")
    assert _name(queue.next("bob")) == "a"


def test_the_second_may_skip_and_the_first_may_change_his_mind(
    state: State, clock: FakeClock
) -> None:
    task = make_task(Path(), CHECK, labels={"overlap_percent": 100})
    queue = Queue(state, task, clock)
    queue.offer([by_chance("a", 0.1)])
    queue.label("a", "ann", "right")
    assert queue.undo("a", "ann")
    assert _name(queue.next("ann")) == "a"
    queue.label("a", "ann", "wrong")
    assert _name(queue.next("bob")) == "a"
    assert queue.skip("a", "bob", "cannot tell")
    [item] = queue.items(10, "labelled")
    assert (item.labeller, item.verdict) == ("ann", "wrong")


def test_overlap_is_a_share_that_chance_chooses(state: State, clock: FakeClock) -> None:
    task = make_task(Path(), CHECK, labels={"overlap_percent": 30, "max_open": 1000})
    queue = Queue(state, task, clock)
    names = [f"cmpl_{number:04}" for number in range(60)]
    queue.offer([by_chance(name, index / 1000) for index, name in enumerate(names)])
    for name in names:
        queue.label(name, "ann", "right")
    assert 8 < queue.progress().open < 30
    assert queue.progress().open + queue.progress().labelled == 60


def test_an_item_is_offered_once_and_the_same_answer_asked_once(queue: Queue) -> None:
    first = candidate("a", "disagreement", 0.1)
    assert queue.offer([first, candidate("b", "disagreement", 0.2, content=first.content)]) == 1
    assert queue.offer([first]) == 0
    queue.label("a", "ann", "right")
    assert queue.offer([first]) == 0
    # Chance asks as often as the answer was given: rates are of what users saw.
    assert queue.offer([by_chance("c", 0.1, content=first.content)]) == 1


def test_the_queue_is_bounded_and_tells_what_chance_is_left(queue: Queue) -> None:
    held = _name(queue.next("ann")) if queue.offer([by_chance("held", 0.49)]) else None
    queue.offer(by_chance(f"r{number}", number / 20) for number in range(9))
    queue.offer(candidate(f"d{number}", "disagreement", number / 10) for number in range(9))
    items = {item.completion_id: item.probability for item in queue.items(100)}
    assert held in items
    assert {name for name in items if name[0] == "d"} == {"d0", "d1", "d2", "d3"}
    by_chance_left = {name: chance for name, chance in items.items() if name[0] == "r"}
    assert by_chance_left == dict.fromkeys(("r0", "r1", "r2", "r3"), pytest.approx(0.2))


def test_tasks_have_queues_of_their_own(state: State, queue: Queue) -> None:
    other = Queue(state, make_task(Path(), CHECK, task="other"))
    queue.offer([by_chance("a", 0.1)])
    assert other.next("ann") is None
    assert other.offer([by_chance("a", 0.1)]) == 1
    queue.drop("a")
    assert queue.next("ann") is None
    assert _name(other.next("ann")) == "a"


def _name(item: Any) -> str | None:
    return None if item is None else str(item.completion_id)

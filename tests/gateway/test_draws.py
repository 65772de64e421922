"""Who is drawn in a release: the very unit that its evidence counts, and the same on every host."""

import itertools
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from everlearn.events import Completion
from gateway.assignment import assign, draw
from gateway.routes import ArmRoute, TaskRoute
from tests.builders import make_completion
from tests.gateway.backend import backend, plain
from tests.gateway.door import BASE, door

CHALLENGER = ArmRoute(version="7", model="text2sql-abc")
T = 1_800_000_000.0
DAY = 86_400.0
_NUMBERS = itertools.count()


def make_route(**fields: Any) -> TaskRoute:
    asked = {"champion": BASE, "challenger": CHALLENGER, "challenger_share": 0.5, "release": "r1"}
    return TaskRoute(**{**asked, "stage": 0, "since": T, "unit": "auto", **fields})


def asks(user: str = "ann", conversation: str | None = None, at: float = T) -> Completion:
    fields = {"unit": user, "conversation_id": conversation, "received_at": at}
    return make_completion(completion_id=f"cmpl_{next(_NUMBERS)}", task="t", **fields)


def numbers(route: TaskRoute, drafts: Iterable[Completion]) -> set[str | None]:
    return {draw(route, draft) for draft in drafts}


@pytest.mark.parametrize(
    ("unit", "named", "unnamed"),
    [("user", 1, 1), ("auto", 5, 1), ("conversation", 5, 20), ("request", 20, 20)],
)
def test_each_choice_draws_as_many_as_it_says(unit: Any, named: int, unnamed: int) -> None:
    """20 requests of one user, in 5 conversations or in none."""
    route = make_route(unit=unit)
    assert len(numbers(route, (asks("ann", f"c{n % 5}") for n in range(20)))) == named
    assert len(numbers(route, (asks("ann") for _ in range(20)))) == unnamed


def test_two_users_conversations_of_one_name_are_two() -> None:
    assert len(numbers(make_route(), (asks(user, "1") for user in ("ann", "bob")))) == 2


def test_who_returns_is_drawn_anew_in_the_next_epoch_and_only_then() -> None:
    route, dice = make_route(unit="user", epoch_seconds=DAY), random.Random(0)
    users = [f"u{n}" for n in range(2000)]
    on: list[set[str]] = []
    for epoch in range(3):
        found = set()
        for user in users:
            times = [T + DAY * (epoch + dice.random()) for _ in range(2)]
            (number,) = numbers(route, (asks(user, at=at) for at in times))
            if assign(route, "t", user, number).arm == "challenger":
                found.add(user)
        on.append(found)
    assert all(0.46 < len(found) / 2000 < 0.54 for found in on)
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert 0.22 < len(on[one] & on[other]) / 2000 < 0.28
    never = make_route(unit="user")
    assert len(numbers(never, (asks(at=T + DAY * n) for n in range(9)))) == 1
    # A host whose clock is behind the start is in the first epoch.
    assert numbers(route, [asks(at=T - 5)]) == numbers(route, [asks(at=T)])


@pytest.mark.parametrize("unit", ["user", "conversation", "request"])
def test_in_an_epoch_a_growing_share_keeps_its_units(unit: Any) -> None:
    drafts = [asks(f"u{n}", f"c{n}", T + DAY * 1.5) for n in range(500)]

    def on(share: float) -> set[str]:
        route = make_route(unit=unit, epoch_seconds=DAY, challenger_share=share)
        drawn = {draft.completion_id: draw(route, draft) for draft in drafts}
        return {name for name, number in drawn.items()
                if assign(route, "t", "u", number).arm == "challenger"}  # fmt: skip

    assert on(0.05) < on(0.25) < on(0.5) < on(1.0)
    assert len(on(1.0)) == 500


def test_the_first_epoch_of_a_user_is_the_assignment_of_a_release_without_epochs() -> None:
    route = make_route(unit="user", epoch_seconds=DAY)
    for n in range(200):
        number = draw(route, asks(f"u{n}"))
        assert assign(route, "t", f"u{n}", number) == assign(route, "t", f"u{n}")


def test_nobody_is_drawn_where_there_is_nothing_to_choose() -> None:
    assert draw(TaskRoute(champion=BASE, unit="auto"), asks()) is None
    assert draw(make_route(unit=None), asks()) is None


def test_held_back_for_good_is_the_user_whatever_is_drawn() -> None:
    held = ArmRoute(version="3", model="old")
    route = make_route(unit="request", holdback=held, holdback_share=0.2)
    for user in (f"u{n}" for n in range(300)):
        arms = {assign(route, "t", user, draw(route, asks(user))).arm for _ in range(6)}
        assert "holdback" not in arms or arms == {"holdback"}


def test_a_watch_draws_the_same_kind_of_unit_anew_in_each_of_its_epochs() -> None:
    held = ArmRoute(version="3", model="old")
    drafts = [asks("ann", f"c{n}") for n in range(400)]
    seen: list[frozenset[int]] = []
    for stage in (0, 1):
        route = make_route(challenger=None, holdback=held, watch_share=0.3, stage=stage)
        found = [assign(route, "t", "ann", draw(route, draft)).arm for draft in drafts]
        seen.append(frozenset(n for n, arm in enumerate(found) if arm == "holdback"))
    assert all(80 < len(each) < 160 for each in seen)
    assert 15 < len(seen[0] & seen[1]) < 65


@pytest.mark.anyio
async def test_the_gateway_keeps_the_number_that_chose_the_arm_also_of_a_masked_user(
    tmp_path: Path,
) -> None:
    """Of whose name nothing is kept: he is one unit nevertheless, not one a request."""
    arms = {"challenger": CHALLENGER, "challenger_share": 0.5, "release": "r1", "stage": 0}
    async with (
        backend(plain) as upstream,
        door(
            tmp_path,
            upstream.url,
            routes={**arms, "unit": "auto", "since": T, "epoch_seconds": 1e9},
            capture={"mask": [r"[a-z]+@example\.org"]},
        ) as gate,
    ):
        for n in range(12):
            headers = {"x-everlearn-conversation": f"c{n % 3}"} if n < 9 else {}
            answer = await gate.chat(headers, user="ann@example.org")
            assert answer.status_code == 200
        events = gate.completions()
    assert len({event.unit for event in events}) == 12
    drawn = [event.draw for event in events]
    assert [len(set(drawn[:9])), len(set(drawn[9:]))] == [3, 1]
    for event in events:
        assert (event.arm == "challenger") is (int(event.draw or "", 16) / 2**64 < 0.5)

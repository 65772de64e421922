"""Who counts in a release is who was drawn: every choice of unit, epochs, returning users."""

import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from everlearn.lake.ducklake import DuckLake, open_lake
from everlearn.lake.erase import Subject, erase
from gateway.assignment import assign, draw
from serving.release.observations import (
    Counted,
    Metric,
    Window,
    closed_units,
    count,
    freeze,
    frozen,
)
from serving.release.routing import render
from serving.release.states import Traffic, begin
from tests.builders import make_completion, make_service
from tests.release.world import BASE, make_release, make_rules

T = 1_800_000_000.0
EPOCH = 1000.0
STEPS = (20, 50, 100)
UNITS = ("user", "auto", "conversation", "request")


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[DuckLake]:
    with_it = open_lake(make_service(tmp_path))
    yield with_it
    with_it.close()


def at_stage(unit: str, stage: int, **rules: Any) -> Traffic:
    rules = {"unit": unit, "epoch_seconds": EPOCH, "steps": STEPS, **rules}
    release = make_release(make_rules(**rules), release_id="rel_units", created_at=T, stage=stage)
    return msgspec.structs.replace(begin(Traffic(champion=BASE), release), release=release)


class Asked(NamedTuple):
    """One request, by an account of it that knows nothing of draws."""

    who: tuple[str, ...]
    """The unit, by the choice and the epoch."""
    user: str
    stage: int
    at: float
    row: dict[str, Any]


def traffic(unit: str, seed: int, users: int = 12, requests: int = 500) -> list[Asked]:
    """People come back in and out of conversations, over four epochs and two steps."""
    dice = random.Random(seed)
    found = []
    for n, at in enumerate(sorted(T + dice.random() * 4 * EPOCH for _ in range(requests))):
        user, talk = f"u{dice.randrange(users)}", dice.choice([None, "1", "2"])
        stage = int(at > T + 1.5 * EPOCH)
        route = render(at_stage(unit, stage))
        about = {"unit": user, "conversation_id": talk, "received_at": at}
        name = f"cmpl_{seed}_{n:05}"
        draft = make_completion(completion_id=name, task="text2sql", **about)
        number = draw(route, draft)
        chosen = assign(route, "text2sql", user, number)
        row = {
            **{"completion_id": name, "task": "text2sql", **about, "draw": number},
            **{"arm": chosen.arm, "probability": chosen.probability, "status": "ok"},
            **{"release": "rel_units", "stage": stage, "version": "7", "latency_ms": 1.0},
        }
        epoch = f"epoch {int((at - T) // EPOCH)}"
        talked = {"user": (user,), "request": (name,), "conversation": (user, talk or name)}
        who = talked.get(unit, (user, talk or ""))
        found.append(Asked((*who, epoch), user, stage, at, row))
    return found


def counted(lake: DuckLake, asked: list[Asked], unit: str) -> list[Counted]:
    lake.commit(lambda transaction: transaction.append("completions", [a.row for a in asked]))
    release = at_stage(unit, 1).release
    assert release is not None
    wanted = Metric("error_rate", 5.0)
    due = closed_units(lake, "text2sql", release, wanted, Window(T + 9 * EPOCH, T))
    assert {row["person"] for row in due} == {each.user for each in asked}
    return count(due, wanted, release, 0)


@pytest.mark.parametrize("unit", UNITS)
def test_each_that_was_drawn_counts_once_a_step_with_the_chance_that_it_had(
    lake: DuckLake, unit: str
) -> None:
    asked = traffic(unit, seed=UNITS.index(unit))
    first: dict[tuple[tuple[str, ...], int], Asked] = {}
    for each in asked:
        first.setdefault((each.who, each.stage), each)
    expected = []
    for (who, stage), each in first.items():
        before = first.get((who, 0)) if stage == 1 else None
        pi: float | None = STEPS[stage] / 100
        if before is not None:
            # Who was on the candidate stays; others are asked again with what is left of the hash.
            pi = None if before.row["arm"] == "challenger" else (0.5 - 0.2) / (1 - 0.2)
        expected.append((stage, each.row["arm"] == "challenger", pi and round(pi, 9)))
    found = counted(lake, asked, unit)
    told = [(row.stage, row.treated, row.propensity and round(row.propensity, 9)) for row in found]
    assert told == expected
    kept = {(row.unit, row.stage) for row in found}
    assert len(kept) == len(found)
    if unit == "request":
        assert len(found) == len(asked)


@pytest.mark.parametrize("unit", ["user", "auto", "conversation"])
def test_what_one_draw_put_on_its_arm_is_never_two_units(lake: DuckLake, unit: str) -> None:
    """The same number means the same arm in a step, and one row; another number another row."""
    asked = traffic(unit, seed=7)
    rows = counted(lake, asked, unit)
    arms = defaultdict(set)
    for each in asked:
        arms[each.row["draw"], each.stage].add(each.row["arm"])
    assert all(len(each) == 1 for each in arms.values())
    assert {(row.unit, row.stage) for row in rows} == set(arms)
    assert len(rows) < len(asked)


def test_a_challengers_failure_and_the_answer_instead_are_one_request(lake: DuckLake) -> None:
    """Of requests as units, whose failure has an id of its own; the user is masked."""
    about = {"task": "text2sql", "release": "rel_units", "stage": 0, "received_at": T + 1}
    rows: list[dict[str, Any]] = [
        {**about, "completion_id": "b", "unit": "b", "draw": "00ff", "arm": "challenger",
         "probability": 0.2, "status": "upstream_error"},
        {**about, "completion_id": "a", "unit": "a", "draw": "00ff", "arm": "champion",
         "probability": 0.2, "status": "ok", "fallback_from": "challenger"},
    ]  # fmt: skip
    lake.commit(lambda transaction: transaction.append("completions", rows))
    release = at_stage("request", 0).release
    assert release is not None
    wanted = Metric("error_rate", 5.0)
    (due,) = closed_units(lake, "text2sql", release, wanted, Window(T + 60, T))
    assert (due["arm"], due["share"], due["value"]) == ("challenger", 0.2, 0.0)


def test_who_is_erased_leaves_no_draw_of_his(lake: DuckLake) -> None:
    asked = traffic("auto", seed=1)
    rows = counted(lake, asked, "auto")
    freeze(lake, "rel_units", rows, T)
    his = {each.row["draw"] for each in asked if each.user == "u0"}
    erase(lake, Subject(unit="u0"))
    kept = {row.unit for row in frozen(lake, "rel_units")}
    assert not kept & his
    others = {each.row["draw"] for each in asked} - his
    assert {name for name in kept if not name.startswith("erased_")} == others


def test_a_release_that_began_before_units_could_be_chosen_goes_on_by_user() -> None:
    old = at_stage("request", 0)
    assert old.release is not None
    rules = {name: rule for name, rule in old.release.rules.items() if name != "unit"}
    route = render(
        msgspec.structs.replace(old, release=msgspec.structs.replace(old.release, rules=rules))
    )
    assert (route.unit, route.epoch_seconds) == (None, 0.0)
    assert render(old).unit == "request"

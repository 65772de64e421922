"""A newer version takes the place of a release that is undecided and stale, and of no other."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from everlearn.errors import ReleaseBusy
from gateway.routes import ArmRoute
from serving.release.accounts import Accounts
from serving.release.budget import Budget, next_level, spend
from serving.release.history import events
from serving.release.observations import Counted, freeze
from serving.release.states import Phase, Release
from serving.release.supersede import EVIDENCE, left_alone, verdict
from serving.release.verbs import Desk
from tests.release.world import BASE, World, make_release, make_rules

NEWER = ArmRoute(version="8", model="candidate-8", adapter_digest="8" * 64)
STARTED = 1_800_000_000.0


def newer(after: float | None = 60.0, **overrides: Any) -> Release:
    rules = make_rules(supersede_after_seconds=after)
    fields = {"candidate": NEWER, "phase": Phase.LOADING, "release_id": "rel-8", **overrides}
    return make_release(rules, **fields)


@pytest.mark.parametrize(
    ("running", "asked", "after", "why"),
    [
        ({}, newer(None), 9999.0, "is not set"),
        ({}, newer(), 59.0, "59 of 60 s"),
        ({"phase": Phase.LOADING}, newer(), 9999.0, "it is loading"),
        ({"phase": Phase.PAIRING}, newer(), 9999.0, "it is pairing"),
        ({"paired": "won"}, newer(), 9999.0, "better in the shadow"),
        ({"challengers": 2}, newer(), 9999.0, "only one version takes the place of one"),
        ({}, newer(challengers=2), 9999.0, "only one version takes the place of one"),
        ({"ungated": "to see"}, newer(), 9999.0, "only a gated version"),
        ({}, newer(ungated="to see"), 9999.0, "only a gated version"),
        ({"candidate": ArmRoute(version="9", model="m")}, newer(), 9999.0, "8 is not newer"),
        ({"candidate": NEWER}, newer(), 9999.0, "8 is not newer"),
        # Ten is newer than nine.
        ({"candidate": ArmRoute(version="10", model="m")}, newer(), 9999.0, "8 is not newer"),
        ({}, newer(), 60.0, None),
        ({}, newer(0.0), 0.0, None),
    ],
)
def test_whose_evidence_is_not_even_looked_at(
    running: dict[str, Any], asked: Release, after: float, why: str | None
) -> None:
    found = left_alone(make_release(**running), asked, STARTED + after)
    assert (found is None) == (why is None)
    assert (why or "") in (found or "")


@pytest.mark.parametrize(
    ("e_value", "gives_way"), [(0.2, True), (2.99, True), (3.01, False), (1e300, False)]
)
def test_what_has_evidence_for_itself_stays(e_value: float, gives_way: bool) -> None:
    seen = Accounts(make_rules()).evidence()
    primary = seen.primary._replace(promote=math.log(e_value))
    found = verdict(newer(), seen._replace(primary=primary))
    assert found.gives_way is gives_way
    assert f"e-value {e_value:.3g}" in found.reason
    assert f"{EVIDENCE:g}" in found.reason


def begin_newer(world: World, asked: Release) -> Release:
    desk = Desk(world.service, world.task, world.clock)
    try:
        return desk._begin(asked, lambda: BASE, lambda _: None)
    finally:
        desk.close()


def heard(world: World, *, candidate: float) -> None:
    """Sixty users of the release that runs have had their say; the champion pleased every other."""
    rows = []
    for place in range(60):
        treated = place % 2 == 1
        value = candidate if treated else float(place % 4 == 0)
        rows.append(Counted("thumbs", f"u{place}", 0, place, treated, 0.5, value, 0))
    freeze(world.lake, world.release.release_id, rows, world.clock.now())
    world.clock.sleep(60.0)


def test_a_stale_release_gives_way_at_once_and_nothing_of_its_level_comes_back(
    make_world: Callable[..., World],
) -> None:
    world = make_world()
    world.ramp()
    first = world.release
    heard(world, candidate=0.5)
    assert world.route.challenger is not None
    started = begin_newer(world, newer())
    # Without waiting for the controller.
    assert world.route.challenger is None
    traffic = world.book.traffic("text2sql")
    assert traffic is not None
    assert (traffic.champion, traffic.release) == (BASE, started)
    spent = spend(Budget(), first.alpha)
    level = next_level(spent, 3, 0.05)
    assert started.alpha == level
    assert traffic.budget == spend(spent, level)
    told = [(note.name, note.version) for note in traffic.notes if note.kind == "state"]
    assert told[-2:] == [("retired", "7"), ("loading", "8")]
    world.book.tell_lake("text2sql", world.lake)
    (row,) = [row for row in events(world.lake, "text2sql") if row["event"] == "superseded"]
    assert row["percent"] == 0
    assert "superseded by version 8: promote e-value" in row["reason"]
    assert row["evidence"]["thumbs"]["units"] == 60
    assert "effect_95" in row["evidence"]["thumbs"]


def test_one_that_is_winning_is_left_alone(make_world: Callable[..., World]) -> None:
    world = make_world()
    world.ramp()
    heard(world, candidate=1.0)
    before = world.book.read("text2sql")
    with pytest.raises(ReleaseBusy, match="not superseded: it has evidence for itself") as refused:
        begin_newer(world, newer())
    assert refused.value.exit_code == 3
    assert world.book.read("text2sql") == before

"""Documents of traffic: every change makes a new one, and says so in its outbox."""

from typing import Any

import msgspec
import pytest

from everlearn.errors import InputError
from gateway.routes import ArmRoute, read_routes
from serving.release.routing import put_route, render, sync_route
from serving.release.states import (
    ENDED,
    ENDINGS,
    TRANSITIONS,
    Phase,
    Traffic,
    begin,
    change,
    revert,
)
from tests.release.world import BASE, CANDIDATE, make_release, make_rules

NOW = 1_800_000_000.0


def loading(**overrides: Any) -> Traffic:
    release = make_release(make_rules(), phase=Phase.LOADING, **overrides)
    return begin(Traffic(champion=BASE), release)


def at(phase: Phase) -> Traffic:
    """A release at this phase, by the way that leads there."""
    traffic = loading()
    if phase is Phase.LOADING:
        return traffic
    if phase in (Phase.ERROR, Phase.PAIRING):
        return change(traffic, phase, "why", NOW)
    traffic = change(traffic, Phase.RAMPING, "loaded", NOW)
    return traffic if phase is Phase.RAMPING else change(traffic, phase, "why", NOW)


def test_every_phase_has_its_row_and_the_ended_ones_lead_nowhere_but_back() -> None:
    assert set(TRANSITIONS) == set(Phase)
    for phase in ENDED - {Phase.PROMOTED}:
        assert TRANSITIONS[phase] == frozenset()
    assert TRANSITIONS[Phase.PROMOTED] == {Phase.ROLLED_BACK}


@pytest.mark.parametrize("phase", Phase)
def test_what_follows_a_release_knows_every_event_that_ends_it(phase: Phase) -> None:
    assert (at(phase).events[-1].event in ENDINGS) == (phase in ENDED)


@pytest.mark.parametrize("phase", Phase)
def test_only_a_ramping_release_has_traffic(phase: Phase) -> None:
    route = render(at(phase))
    # In the shadow it is asked as well, and answers nobody.
    assert (route.challenger is not None) == (phase in (Phase.RAMPING, Phase.PAIRING))
    assert (route.challenger_share > 0) == (phase is Phase.RAMPING)
    assert route.champion == (CANDIDATE if phase is Phase.PROMOTED else BASE)
    assert (route.holdback is not None) == (phase is Phase.PROMOTED)


def test_a_version_that_did_not_load_never_had_traffic() -> None:
    with pytest.raises(InputError, match="from error to ramping"):
        change(at(Phase.ERROR), Phase.RAMPING, "try anyway", NOW)
    with pytest.raises(InputError, match="from loading to promoted"):
        change(loading(), Phase.PROMOTED, "at once", NOW)
    with pytest.raises(InputError, match="from pairing to promoted"):
        change(at(Phase.PAIRING), Phase.PROMOTED, "unseen", NOW)


def test_one_release_at_a_time() -> None:
    with pytest.raises(InputError, match=r"version 7 is ramping .* one release at a time"):
        begin(at(Phase.RAMPING), make_release())
    assert begin(at(Phase.STOPPED), make_release(release_id="next")).budget.releases == 2


def test_a_step_says_its_share_and_keeps_the_start_of_the_ramp() -> None:
    traffic = change(at(Phase.RAMPING), Phase.RAMPING, "no harm", NOW + 60, stage=1)
    release = traffic.release
    assert release is not None
    assert (release.percent, release.stage_since, release.ramp_since) == (25, NOW + 60, NOW)
    assert (traffic.events[-1].event, traffic.events[-1].percent) == ("step", 25)


def test_a_promotion_tells_the_registry_who_is_who() -> None:
    traffic = at(Phase.PROMOTED)
    assert (traffic.champion, traffic.last_good, traffic.holdback) == (CANDIDATE, BASE, BASE)
    notes = {(note.kind, note.name): note.version for note in traffic.notes}
    assert notes[("alias", "champion")] == "7"
    assert notes[("alias", "last_good")] == "base"
    assert notes[("alias", "holdback")] == "base"
    assert notes[("alias", "challenger")] is None
    assert notes[("state", "champion")] == "7"
    assert notes[("state", "retired")] == "base"
    assert traffic.budget.promotions == 1


def test_no_holdback_where_none_is_wanted() -> None:
    release = make_release(make_rules(holdback_percent=0), phase=Phase.LOADING)
    traffic = change(begin(Traffic(champion=BASE), release), Phase.RAMPING, "loaded", NOW)
    assert change(traffic, Phase.PROMOTED, "won", NOW).holdback is None


def test_a_rollback_goes_back_once() -> None:
    traffic = revert(at(Phase.PROMOTED), "complaints", NOW)
    assert (traffic.champion, traffic.last_good, traffic.holdback) == (BASE, None, None)
    assert traffic.release is not None
    assert traffic.release.phase is Phase.ROLLED_BACK
    with pytest.raises(InputError, match="no champion before version base"):
        revert(traffic, "again", NOW)


def test_a_document_survives_json() -> None:
    for phase in Phase:
        traffic = at(phase)
        assert msgspec.convert(msgspec.to_builtins(traffic), Traffic) == traffic


def test_routes_of_other_tasks_are_left_alone(tmp_path: Any) -> None:
    path = tmp_path / "routes.json"
    other = render(Traffic(champion=ArmRoute(version="3", model="other-3")))
    assert put_route(path, "other", other)
    route = render(at(Phase.RAMPING))
    assert put_route(path, "text2sql", route)
    assert not put_route(path, "text2sql", route)
    table = read_routes(path)
    assert table.tasks["other"] == other
    assert table.tasks["text2sql"].challenger_share == 0.05
    assert not sync_route(path, "unknown", lambda: None)
    assert read_routes(path) == table

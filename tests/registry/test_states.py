"""The life cycle as a table."""

from itertools import pairwise

import pytest

from everlearn.errors import InputError
from registry.states import TRANSITIONS, VersionState, move


def test_the_ordinary_life_leads_from_registered_to_champion() -> None:
    names = ("registered", "gated", "loading", "ramping", "champion")
    for old, new in pairwise(VersionState(name) for name in names):
        assert move(old, new) is new


def test_every_state_has_its_row_and_none_leads_to_itself() -> None:
    assert set(TRANSITIONS) == set(VersionState)
    assert all(state not in following for state, following in TRANSITIONS.items())


def test_a_repeated_move_is_harmless() -> None:
    assert move(VersionState.RAMPING, VersionState.RAMPING) is VersionState.RAMPING


def test_traffic_is_reached_only_through_loading() -> None:
    before = {old for old, following in TRANSITIONS.items() if VersionState.RAMPING in following}
    assert before == {VersionState.LOADING}


def test_a_forbidden_move_names_the_allowed_ones() -> None:
    with pytest.raises(InputError, match="from gated it goes to loading, rejected, retired"):
        move(VersionState.GATED, VersionState.CHAMPION)

"""What every form of the relational state must do: SQLite and Postgres."""

from collections.abc import Iterator

import pytest

from everlearn.config import Service
from everlearn.errors import InputError, NotFound
from everlearn.keys import create_key, revoke_key, stored_keys
from everlearn.state import State, StateConflict, open_state


@pytest.fixture
def state(service: Service) -> Iterator[State]:
    state = open_state(service)
    yield state
    state.close()


def test_a_document_comes_back_with_the_count_of_its_writes(state: State) -> None:
    assert state.get("kind", "key") is None
    assert state.put("kind", "key", {"n": 1}) == 1
    assert state.put("kind", "key", {"n": 2, "text": "é"}, revision=1) == 2
    assert state.get("kind", "key") == ({"n": 2, "text": "é"}, 2)


def test_of_two_writers_of_one_revision_the_second_is_told(service: Service, state: State) -> None:
    other = open_state(service)
    state.put("kind", "key", {"n": 0})
    other.put("kind", "key", {"n": 1}, revision=1)
    with pytest.raises(StateConflict, match="no longer at revision 1"):
        state.put("kind", "key", {"n": 2}, revision=1)
    with pytest.raises(StateConflict, match="exists already"):
        state.put("kind", "key", {"n": 3})
    assert state.get("kind", "key") == ({"n": 1}, 2)
    other.close()


def test_documents_of_a_kind_come_in_the_order_of_their_keys(state: State) -> None:
    for key in ("b", "a", "c"):
        state.put("kind", key, {"key": key})
    state.put("other", "a", {})
    assert [key for key, _ in state.all("kind")] == ["a", "b", "c"]


def test_a_key_is_made_once_and_revoked_once(state: State) -> None:
    create_key(state, 1.0, id="team-a", tasks=("text2sql",), requests_per_minute=5)
    with pytest.raises(InputError, match="exists already"):
        create_key(state, 2.0, id="team-a")
    revoke_key(state, "team-a", 3.0)
    revoke_key(state, "team-a", 4.0)
    [key], unreadable = stored_keys(state)
    assert (key.tasks, key.created_at, key.revoked_at) == (("text2sql",), 1.0, 3.0)
    assert unreadable == []
    with pytest.raises(NotFound):
        revoke_key(state, "nobody", 5.0)

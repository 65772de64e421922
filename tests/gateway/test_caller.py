"""Who asks is worked out once per head, and never outlives the keys that it rests on."""

import pytest

from everlearn.config import Key
from everlearn.events import Completion
from gateway.caller import Caller, request_id
from gateway.http.heads import Head
from gateway.http.wire import Refusal
from gateway.keys import Keyring
from gateway.local import Local
from tests.builders import sha256

APP = Key(id="app", sha256=sha256("s"), may_speak_for="users")
TEAM = Key(id="team", sha256=sha256("s"))


def head(*headers: tuple[str, str], key: str = "s") -> Head:
    one = Head()
    one.headers = [(b"authorization", b"Bearer " + key.encode())]
    one.headers += [(name.encode(), value.encode()) for name, value in headers]
    one.known = dict(one.headers)
    return one


def keyring(*keys: Key) -> Keyring:
    return Keyring(keys, lambda: 0.0, local=Local())


def draft(**fields: str) -> Completion:
    return Completion(
        completion_id="c1", received_at=0.0, endpoint="chat/completions", status="ok",
        http_status=0, latency_ms=0.0, **fields,  # type: ignore[arg-type]
    )  # fmt: skip


def test_a_head_is_worked_out_once_for_as_long_as_the_keys_stay() -> None:
    keys, one = keyring(APP), head()
    first = Caller.of(one, keys)
    assert Caller.of(one, keys) is first
    assert first.holder is not None
    keys.take([Key(id="new", sha256=sha256("new"))], ever=True)
    second = Caller.of(one, keys)
    assert second is not first
    assert second.holder is first.holder, "what is left of its limits stays"


def test_a_key_that_is_taken_back_is_refused_with_the_next_request() -> None:
    keys, one = keyring(), head()
    keys.take([APP], ever=True)
    assert Caller.of(one, keys).key_id == "app"
    keys.take([], ever=True)
    for _ in range(2):
        with pytest.raises(Refusal) as refused:
            Caller.of(one, keys)
        assert refused.value.status == 401
    keys.take([TEAM], ever=True)
    assert Caller.of(one, keys).key_id == "team"


def test_the_first_key_ends_what_was_open() -> None:
    keys, one = keyring(), head(("host", "localhost"), key="x")
    keys.take([], ever=False)
    assert Caller.of(one, keys).holder is None
    keys.take([APP], ever=True)
    with pytest.raises(Refusal):
        Caller.of(one, keys)


def test_a_strange_page_is_refused_every_time() -> None:
    keys, one = keyring(), head(("host", "evil.example"))
    keys.take([], ever=False)
    for _ in range(2):
        with pytest.raises(Refusal, match="localhost"):
            Caller.of(one, keys)


@pytest.mark.parametrize(
    ("headers", "body", "unit"),
    [
        ({"x-everlearn-unit": "u", "x-everlearn-conversation": "v"}, ("s", "b"), "u"),
        ({"x-everlearn-unit": ""}, ("s", "b"), "s"),
        ({}, ("", "b"), "b"),
        ({"x-everlearn-conversation": "v"}, (7, None), "7"),
        ({"x-everlearn-conversation": "v"}, (7.5, True), "v"),
        ({"x-request-id": "r"}, (None, []), "r"),
        ({}, (None, None), "c1"),
    ],
)
def test_the_unit_is_the_nearest_name_that_was_given(
    headers: dict[str, str], body: tuple[object, object], unit: str
) -> None:
    one = head(*headers.items())
    event = draft(**({"request_id": name} if (name := request_id(one)) else {}))
    assert Caller.of(one, keyring(APP)).identify(event, *body) == event.unit == unit
    assert event.conversation_id == headers.get("x-everlearn-conversation")


def test_a_key_that_may_not_name_users_names_its_own() -> None:
    keys = keyring(TEAM)
    assert Caller.of(head(), keys).identify(draft(), None, "ann") == "team/ann"
    assert Caller.of(head(), keys).identify(draft(), None, None) == "c1"
    caller = Caller.of(head(("x-everlearn-unit", "ann")), keys)
    for _ in range(2):
        with pytest.raises(Refusal, match="may not speak for users"):
            caller.check()


def test_long_names_become_their_hash_and_still_join() -> None:
    one = head(("x-request-id", "r" * 257), ("x-everlearn-unit", "é" * 129))
    name = request_id(one)
    assert name is not None
    assert name == request_id(head(("x-request-id", "r" * 257)))
    assert name.startswith("sha256:")
    unit = Caller.of(one, keyring(APP)).identify(draft(), None, None)
    assert unit == "sha256:" + sha256("é" * 129)
    assert request_id(head(("x-request-id", "r" * 256))) == "r" * 256

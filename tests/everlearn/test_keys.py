"""`everlearn keys`: made once, listed without the secret, revoked for good."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

import pytest
from click.testing import CliRunner, Result

from everlearn.cli.keys import ROLES, command
from everlearn.config import Role
from everlearn.errors import ConfigError, InputError, NotFound
from everlearn.keys import PREFIX, create_key, stored_keys
from everlearn.state import open_state
from tests.builders import make_service, sha256
from tests.gateway.door import write_task


@pytest.fixture(autouse=True)
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_service(tmp_path, gateway={"keys": [{"id": "fixed", "sha256": sha256("x")}]})
    write_task(tmp_path)
    monkeypatch.setenv("EVERLEARN_CONFIG", str(tmp_path / "everlearn.yaml"))


def keys(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def listed() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(keys("list", "--json").output)
    return rows


def test_a_key_is_printed_once_and_only_its_hash_is_kept(tmp_path: Path) -> None:
    made = keys("create", "--id", "team-a", "--tasks", "text2sql", "--requests-per-minute", "60")
    key = made.stdout.strip()
    assert made.stderr == ""
    assert key.startswith(PREFIX)
    assert len(key) > 40
    stored = (tmp_path / ".everlearn" / "state.db").read_bytes()
    assert key.encode() not in stored
    assert sha256(key).encode() in stored
    fixed, own = listed()
    assert (fixed["id"], fixed["source"]) == ("fixed", "config")
    assert (own["id"], own["tasks"], own["requests_per_minute"]) == ("team-a", ["text2sql"], 60)
    assert key not in keys("list").output
    assert sha256(key) not in keys("list", "--json").output
    assert "team-a  store  client  tasks text2sql  60 requests per minute" in keys("list").output


def test_two_keys_differ_and_come_as_json_on_demand() -> None:
    first, second = (json.loads(keys("create", "--id", name, "--json").output) for name in "ab")
    assert first["key"] != second["key"]
    assert (first["id"], second["id"]) == ("a", "b")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("create", "--id", "team-a"), "exists already"),
        (("create", "--id", "fixed"), "stands in the config already"),
        (("create", "--id", ""), "id = ''"),
        (
            ("create", "--id", "b", "--tasks", "text2sql,nowhere"),
            "nowhere: no such task",
        ),
    ],
)
def test_what_cannot_be_a_key_is_refused(arguments: tuple[str, ...], why: str) -> None:
    keys("create", "--id", "team-a")
    answer = keys(*arguments)
    assert isinstance(answer.exception, InputError)
    assert why in str(answer.exception)


def test_a_revoked_key_stays_listed_and_its_id_is_not_used_again() -> None:
    keys("create", "--id", "team-a")
    assert keys("revoke", "team-a").output == "team-a: revoked\n"
    first = listed()[1]["revoked_at"]
    assert first is not None
    keys("revoke", "team-a")
    assert listed()[1]["revoked_at"] == first
    assert "revoked 20" in keys("list").output
    assert isinstance(keys("create", "--id", "team-a").exception, InputError)
    assert isinstance(keys("revoke", "fixed").exception, NotFound)


def test_the_first_key_says_that_the_door_closes(tmp_path: Path) -> None:
    make_service(tmp_path)
    assert "answers 401 to whoever sends none" in keys("create", "--id", "a").stderr
    assert keys("create", "--id", "b").stderr == ""


def test_an_unknown_role_is_no_key_wherever_it_stands(tmp_path: Path) -> None:
    assert get_args(Role) == ROLES
    told = keys("create", "--name", "b", "--role", "admin")
    assert told.exit_code == 2
    assert all(role in told.output for role in ("'admin'", *ROLES))
    with pytest.raises(ConfigError, match=r"(?s)role.*admin|admin.*role") as refused:
        make_service(tmp_path, gateway={"keys": [{"id": "b", "sha256": "0" * 64, "role": "admin"}]})
    assert refused.value.exit_code == 2
    with closing(open_state(make_service(tmp_path / "store"))) as state:
        with pytest.raises(InputError, match="admin"):
            create_key(state, 1.0, id="b", role="admin")
        create_key(state, 1.0, id="team-a")
        document = state.all("key")[0][1]
        state.put("key", "b", {**document, "id": "b", "role": "admin"})
        found, unreadable = stored_keys(state)
    assert [key.id for key in found] == ["team-a"]
    assert unreadable == ["key b in the state store cannot be read"]

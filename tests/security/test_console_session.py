"""Who may do what at the console: keys, roles, sessions, forms, and the book of changes."""

import time
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from console.app import create_app
from console.door import changes, needed
from console.session import SESSION_SECONDS, Sessions
from everlearn.config import Service
from everlearn.keys import revoke_key
from everlearn.state import open_state
from tests.builders import FakeClock, make_service
from tests.console.session import browser, make_key, write_task
from tests.evaluators.lake import Rows


@pytest.fixture
def service(tmp_path: Path) -> Service:
    Rows(tmp_path).lake.close()
    for name in ("text2sql", "other"):
        write_task(tmp_path, name)
    return make_service(tmp_path)


@pytest.fixture
def app(service: Service) -> FastAPI:
    return create_app(service)


@pytest.mark.parametrize(
    ("method", "path", "role"),
    [
        ("GET", "/", "viewer"),
        ("HEAD", "/requests", "viewer"),
        ("POST", "/signout", "viewer"),
        ("POST", "/labels/text2sql", "labeller"),
        ("POST", "/v1/fine_tuning/alpha/graders/run", "labeller"),
        ("POST", "/releases/text2sql/rollback", "operator"),
        ("DELETE", "/labels", "operator"),
        ("POST", "/whatever/comes", "operator"),
    ],
)
def test_what_changes_asks_for_more_than_looking(method: str, path: str, role: str) -> None:
    assert needed(method, path) == role


def test_whatever_may_change_something_is_written_down() -> None:
    assert changes("POST", "/labels/text2sql")
    assert changes("DELETE", "/whatever/comes")
    assert not changes("GET", "/releases/text2sql")
    assert not changes("POST", "/v1/fine_tuning/alpha/graders/run")


def test_each_role_opens_what_it_should(service: Service) -> None:
    seen = {}
    for role in ("viewer", "service", "expert", "operator"):
        with browser(create_app(service), make_key(service, role)) as session:
            seen[role] = [
                session.get("/requests").status_code,
                session.post("/labels/text2sql", verdict="up").status_code,
                session.post("/releases/nothing/rollback").status_code,
            ]
    assert seen == {
        "viewer": [200, 403, 403],
        "service": [200, 403, 403],
        "expert": [200, 409, 403],  # let through: no such answer waits
        "operator": [200, 409, 404],
    }


@pytest.mark.parametrize("role", ["client", "judge"])
def test_keys_of_applications_and_judges_open_nothing(
    service: Service, app: FastAPI, role: str
) -> None:
    key = make_key(service, role)
    with browser(app) as stranger:
        answer = stranger.client.post("/signin", data={"key": key})
        assert (answer.status_code, "opens nothing here" in answer.text) == (401, True)
        assert stranger.client.get("/", headers={"authorization": f"Bearer {key}"}).is_error


def test_a_stranger_is_shown_the_way_in_and_comes_out_where_he_wanted_to(
    service: Service, app: FastAPI
) -> None:
    key = make_key(service, "viewer")
    with browser(app) as stranger:
        page = stranger.get("/requests?task=text2sql")
        assert page.status_code == 401
        assert ">Requests</a>" not in page.text
        assert 'name="target" value="/requests?task=text2sql"' in page.text
        form = {"key": f" {key}\n", "target": "/requests?task=text2sql"}
        answer = stranger.client.post("/signin", data=form)
        assert (answer.status_code, answer.headers["location"]) == (303, form["target"])
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert key not in cookie
        assert stranger.get("/requests?task=text2sql").status_code == 200


@pytest.mark.parametrize("target", ["//evil.example/x", "\\\\evil.example", "https://evil.example"])
def test_signing_in_sends_nobody_to_another_machine(
    service: Service, app: FastAPI, target: str
) -> None:
    key = make_key(service, "viewer")
    with browser(app) as stranger:
        answer = stranger.client.post("/signin", data={"key": key, "target": target})
        there = httpx.URL("http://127.0.0.1:8200/").join(answer.headers["location"])
        assert there.host == "127.0.0.1"


@pytest.mark.parametrize("token", [None, "", "0" * 64, "ü"])
def test_a_change_without_the_token_of_its_session_is_refused(
    service: Service, app: FastAPI, token: str | None
) -> None:
    with browser(app, make_key(service, "operator")) as session:
        form = {"verdict": "up"} | ({} if token is None else {"csrf": token})
        answer = session.client.post("/labels/text2sql", data=form)
        assert (answer.status_code, "no token of this session" in answer.text) == (403, True)
    assert _audit(service) == []


def test_the_token_of_another_session_is_refused(service: Service, app: FastAPI) -> None:
    key = make_key(service, "operator")
    with browser(app, key) as first, browser(app, key) as second:
        answer = first.client.post("/labels/text2sql", data={"csrf": second.csrf()})
        assert answer.status_code == 403


def test_a_form_without_end_is_refused(service: Service, app: FastAPI) -> None:
    with browser(app, make_key(service, "operator")) as session:
        answer = session.post("/labels/text2sql", comment="x" * 2**20)
        assert answer.status_code == 413


def test_a_session_expires_and_says_so_as_a_page(service: Service) -> None:
    clock = FakeClock(1_800_000_000.0)
    app = create_app(service, clock=clock)
    with browser(app, make_key(service, "operator")) as session:
        token = session.csrf()
        clock.sleep(SESSION_SECONDS + 1)
        page = session.client.post("/releases/text2sql/rollback", data={"csrf": token})
        assert page.status_code == 401
        assert "Sign in" in page.text
        assert session.get("/requests").status_code == 401


def test_a_revoked_key_ends_its_sessions(
    service: Service, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("console.session.KEYS_SECONDS", -1.0)
    with browser(app, make_key(service, "operator")) as session:
        assert session.get("/requests").status_code == 200
        with closing(open_state(service)) as state:
            revoke_key(state, "operator", time.time())
        assert session.get("/requests").status_code == 401


def test_signing_out_ends_the_session_wherever_its_cookie_is(
    service: Service, app: FastAPI
) -> None:
    with browser(app, make_key(service, "viewer")) as session:
        kept = dict(session.client.cookies)
        assert session.post("/signout").status_code == 303
        session.client.cookies.update(kept)
        assert session.get("/requests").status_code == 401


@pytest.mark.parametrize(
    "cookie", ["", ".", "a.b.c.d", "9999999999.00.6f70657261746f72.", "ü", "x" * 5000]
)
def test_a_made_up_cookie_is_nobody(cookie: str) -> None:
    assert Sessions(FakeClock(0.0)).name(cookie) is None


def test_a_key_for_some_tasks_sees_those_alone(service: Service, app: FastAPI) -> None:
    rows = Rows(service.root)
    mine, theirs = rows.answered("q", "mine"), rows.answered("q", "theirs", task="other")
    nobodys = rows.answered("q", "passed", task=None)
    rows.lake.close()
    with browser(app, make_key(service, "viewer", tasks=["text2sql"])) as session:
        listed = session.get("/requests").text
        assert [each in listed for each in (mine, theirs, nobodys)] == [True, False, False]
        assert session.get(f"/requests/{mine}").status_code == 200
        for path in (f"/requests/{theirs}", f"/requests/{nobodys}", "/requests?task=other"):
            assert session.get(path).status_code == 404
        assert "other" not in session.get("/").text


def test_every_change_is_in_the_lake_with_who_and_what_came_of_it(
    service: Service, app: FastAPI
) -> None:
    with browser(app, make_key(service, "operator", id="ann")) as session:
        assert session.post("/labels/text2sql", verdict="up", comment="secret").is_error
        assert session.get("/requests").status_code == 200
    [row] = _audit(service)
    assert (row["who"], row["role"], row["action"]) == ("ann", "operator", "POST /labels/text2sql")
    assert (row["outcome"], row["status"]) == ("refused", 409)
    assert "secret" not in str(row)


def _audit(service: Service) -> list[dict[str, object]]:
    rows = Rows(service.root)
    found: list[dict[str, object]] = rows.lake.read(
        "SELECT * FROM audit ORDER BY audit_id"
    ).to_pylist()
    rows.lake.close()
    return found

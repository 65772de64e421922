"""The console lets in who has a key or the token, by its own names, from its own pages."""

import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from console.app import create_app
from console.door import token_path
from everlearn.config import Service
from everlearn.stack import processes
from tests.builders import make_service
from tests.evaluators.lake import Rows

HERE = "http://127.0.0.1:8200"
BROWSER = {"accept": "text/html,application/xhtml+xml"}
RUN = "/v1/fine_tuning/alpha/graders/run"


@pytest.fixture
def service(tmp_path: Path) -> Service:
    Rows(tmp_path).lake.close()
    return make_service(tmp_path)


@pytest.fixture
def app(service: Service) -> FastAPI:
    return create_app(service)


@pytest.fixture
def stranger(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, base_url=HERE, follow_redirects=False) as client:
        yield client


def _routes(app: FastAPI) -> list[tuple[str, str]]:
    found = []
    for route in app.routes:
        path = getattr(route, "path", "").replace("{task}", "text2sql")
        found += [(method, path) for method in getattr(route, "methods", None) or {"GET"}]
    return found


def test_every_route_wants_the_token(app: FastAPI, stranger: TestClient) -> None:
    routes = _routes(app)
    assert len(routes) >= 6
    routes = [route for route in routes if not route[1].startswith("/static")]
    for method, path in [*routes, ("GET", "/nothing")]:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"cookie": "everlearn_console=x"}):
            answer = stranger.request(method, path, headers=headers)
            assert answer.status_code == 401, (method, path)
            assert "everlearn console" in answer.text
        assert stranger.request(method, f"{path}?token=wrong").status_code == 401


def test_liveness_is_open_and_says_nothing(stranger: TestClient) -> None:
    answer = stranger.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_the_printed_address_lets_a_browser_in(app: FastAPI, stranger: TestClient) -> None:
    answer = stranger.get(f"/?token={app.state.token}&a=b")
    assert (answer.status_code, answer.headers["location"]) == (303, "/?a=b")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert app.state.token not in answer.headers["location"]
    assert stranger.get("/").status_code == 200
    assert stranger.get("/static/style.css").status_code == 200


def test_the_address_sends_nobody_to_another_machine(app: FastAPI, stranger: TestClient) -> None:
    answer = stranger.get(f"{HERE}//evil.example/x?token={app.state.token}")
    assert answer.headers["location"] == "/evil.example/x"


def test_a_program_sends_the_token_as_a_header(app: FastAPI, stranger: TestClient) -> None:
    headers = {"authorization": f"Bearer {app.state.token}"}
    assert stranger.get("/completeness", headers=headers).status_code == 200


def test_the_token_is_this_users_alone_and_new_at_each_start(service: Service) -> None:
    first, second = create_app(service).state.token, create_app(service).state.token
    assert first != second
    assert token_path(service).read_text() == second
    assert stat.S_IMODE(token_path(service).stat().st_mode) == 0o600


def test_up_shows_the_address_with_the_token(service: Service, app: FastAPI) -> None:
    [console] = [
        row for row in processes(service, service.root / "everlearn.yaml", "full")
        if row.name == "console"
    ]  # fmt: skip
    assert console.ready == f"{HERE}/health"
    assert console.login is not None
    assert console.login() == f"{HERE}/?token={app.state.token}"


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8200", "127.0.0.1.evil.example", "[", ""],
)
def test_a_name_bound_to_this_machine_gets_nothing(
    app: FastAPI, stranger: TestClient, host: str
) -> None:
    headers = {"host": host, "authorization": f"Bearer {app.state.token}"}
    answer = stranger.get("/", headers=headers)
    assert (answer.status_code, "console.allowed_hosts" in answer.text) == (403, True)


def test_names_of_its_own_are_taken(tmp_path: Path) -> None:
    Rows(tmp_path).lake.close()
    config = {"host": "0.0.0.0", "allowed_hosts": ["Console.Example"]}
    app = create_app(make_service(tmp_path, console=config))
    with TestClient(app, base_url=HERE) as client:
        token = {"authorization": f"Bearer {app.state.token}"}
        for host in ("console.example", "localhost:8200", "127.0.0.1:8200", "[::1]:8200"):
            answer = client.get("/completeness", headers={**token, "host": host})
            assert answer.status_code == 200
        answer = client.get("/completeness", headers={**token, "host": "0.0.0.0"})
        assert answer.status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": HERE, "sec-fetch-site": "cross-site"},
    ],
)
def test_nothing_is_posted_from_another_site(
    app: FastAPI, stranger: TestClient, headers: dict[str, str]
) -> None:
    stranger.get(f"/?token={app.state.token}")
    for path in ("/labels/text2sql", RUN):
        answer = stranger.post(path, data={"verdict": "up"}, headers=headers)
        assert (answer.status_code, "from another site" in answer.text) == (403, True)
    own = {"origin": HERE, "sec-fetch-site": "same-origin"}
    own["x-csrf-token"] = _token_of(stranger)
    assert stranger.post(RUN, json={}, headers=own).status_code == 422


def test_nothing_is_framed_nor_run_inline_nor_kept(app: FastAPI, stranger: TestClient) -> None:
    stranger.get(f"/?token={app.state.token}")
    for path in ("/", "/labels/nothing", "/nothing", "/health", "/static/style.css"):
        headers = stranger.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"
        # With no-referrer a browser posts the console's own forms with the origin null.
        assert headers["referrer-policy"] == "same-origin"
        assert headers["cache-control"] == "no-store"
    for path in ("/", "/requests", "/labels/text2sql"):
        page = stranger.get(path, headers=BROWSER).text
        assert "<style" not in page
        assert " style=" not in page
        assert re.search(r"\son\w+=", page) is None
        assert re.findall(r"<script(?! src=\"/static/)", page) == []


def _token_of(client: TestClient) -> str:
    """What the session's forms send along."""
    found = re.search(r'name="csrf" value="([0-9a-f]+)"', client.get("/", headers=BROWSER).text)
    assert found is not None
    return found[1]

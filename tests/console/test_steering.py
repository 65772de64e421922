"""The buttons: the verbs themselves, confirmed, by what the operator saw, written down."""

import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from console.app import create_app
from console.pages.releases import _words
from everlearn.cli.release import command as group
from everlearn.errors import InputError
from everlearn.lake.ducklake import open_lake
from everlearn.state import open_state
from everlearn.task import load_task
from gateway.routes import ArmRoute, read_routes
from serving.release.states import Phase, Release, Traffic, standing
from serving.release.verbs import Desk
from tests.builders import make_service
from tests.console.session import Browser, browser, make_key, write_task
from tests.evaluators.lake import Rows

PAGE = "/releases/text2sql"


def arm(version: str) -> ArmRoute:
    return ArmRoute(version=version, model=f"m{version}")


def put(folder: Path, *, running: bool) -> None:
    """Champion 1 after `base`; version 2 is ramping if `running`."""
    service = make_service(folder)
    rules = load_task(service, "text2sql").release.model_dump(mode="json")
    release = Release(
        release_id="rel_2", candidate=arm("2"), rules=rules, alpha=0.01, created_at=1e9,
        phase=Phase.RAMPING if running else Phase.STOPPED, reason="so far",
    )  # fmt: skip
    traffic = Traffic(champion=arm("1"), last_good=arm("base"), release=release)
    with closing(open_state(service)) as state:
        state.put("traffic", "text2sql", msgspec.to_builtins(traffic))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Rows(tmp_path).lake.close()
    write_task(tmp_path, "text2sql")
    return tmp_path


@pytest.fixture
def session(folder: Path) -> Iterator[Browser]:
    service = make_service(folder)
    with browser(create_app(service), make_key(service, "operator", id="ann")) as made:
        yield made


def steer(session: Browser, verb: str, **form: str) -> Any:
    page = session.get(PAGE).text
    found = re.search(rf'{verb}">.*?name="expect" value="([^"]*)"', page, re.DOTALL)
    seen = {"expect": found[1]} if found else {}
    return session.post(f"{PAGE}/{verb}", **{**seen, "confirm": "text2sql", **form})


def test_a_button_ends_the_release_at_once_and_says_so_in_the_book(
    folder: Path, session: Browser
) -> None:
    put(folder, running=True)
    answer = steer(session, "rollback", reason="users <complain>")
    assert (answer.status_code, answer.headers["location"]) == (303, f"{PAGE}?done=rollback")
    route = read_routes(make_service(folder).routes_path).tasks["text2sql"]
    assert (route.champion.version, route.challenger) == ("1", None)
    page = session.get(PAGE).text
    assert "users &lt;complain&gt;" in page
    with closing(open_lake(make_service(folder))) as lake:
        [row] = lake.read("SELECT * FROM audit").to_pylist()
    assert (row["who"], row["task"], row["status"]) == ("ann", "text2sql", 303)
    assert json.loads(row["detail"]) == {"reason": "users <complain>", "expect": "1/rel_2"}
    assert "version 1 answers" in row["outcome"]


def test_of_two_operators_the_second_is_told_and_moves_nothing(
    folder: Path, session: Browser
) -> None:
    """His rollback was of the release; done twice it would take the champion back too."""
    put(folder, running=True)
    answer = steer(session, "rollback", expect="1/rel_1")
    assert (answer.status_code, "somebody else has moved it" in answer.text) == (409, True)
    assert session.get(PAGE).text.count("rolled_back") == 0
    [row] = session.get("/system").text.split("Changes made here")[1].split("<tr>")[2:]
    assert "refused: " in row
    assert "text2sql stands at 1/rel_2 by now" in row


@pytest.mark.parametrize("expect", ["2", "1/rel_1", "1", ""])
def test_the_desk_moves_only_what_stands_as_it_was_seen(folder: Path, expect: str) -> None:
    put(folder, running=True)
    service = make_service(folder)
    with closing(Desk(service, load_task(service, "text2sql"))) as desk:
        for verb in (desk.abort, desk.rollback):
            with pytest.raises(InputError, match="somebody else has moved it"):
                verb("why", expect=expect)
        traffic = desk.book.traffic("text2sql")
        assert traffic is not None
        assert standing(traffic) == "1/rel_2"
        desk.abort("why", expect="1/rel_2")
        after = desk.book.traffic("text2sql")
        assert after is not None
        assert standing(after) == "1"


@pytest.mark.parametrize("confirm", ["", "yes", "TEXT2SQL", "other"])
def test_nothing_happens_without_the_typed_name(
    folder: Path, session: Browser, confirm: str
) -> None:
    put(folder, running=True)
    answer = steer(session, "abort", confirm=confirm, reason="kept <b>")
    assert (answer.status_code, "to confirm" in answer.text) == (409, True)
    assert 'value="kept &lt;b&gt;"' in answer.text


def test_buttons_are_an_operators(folder: Path) -> None:
    put(folder, running=True)
    service = make_service(folder)
    with browser(create_app(service), make_key(service, "expert")) as session:
        assert "type <b>text2sql</b>" not in session.get(PAGE).text
        assert session.post(f"{PAGE}/abort", confirm="text2sql").status_code == 403


@pytest.mark.parametrize(
    ("path", "status"),
    [(f"{PAGE}/destroy", 404), ("/releases/nothing/abort", 404), (f"{PAGE}/start", 409)],
)
def test_a_verb_that_is_none_is_refused(session: Browser, path: str, status: int) -> None:
    answer = session.post(path, confirm="nothing")
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith("text/html")


def test_what_a_start_can_be_told_the_form_and_the_schedule_can_say(session: Browser) -> None:
    """Every flag of the verb that changes what is started."""
    start = group.commands["start"]
    flags = {each.name for each in start.params if getattr(each, "is_flag", False)}
    page, schedule = session.get(PAGE).text, Path("dags/release.py").read_text()
    asked = {name.replace("_", "-") for name in flags - {"wait", "as_json"} if name}
    assert asked == {"trust-raters", "anyway"}
    for flag in asked:
        assert f'name="{flag}"' in page
        assert f"' --{flag}' if params.{flag.replace('-', '_')} " in schedule
        words = _words("text2sql", "start", {"version": "2", flag: "yes"})
        assert words == ["release", "start", "text2sql", "2", f"--{flag}"]
    assert _words("text2sql", "start", {"version": "2"}) == ["release", "start", "text2sql", "2"]

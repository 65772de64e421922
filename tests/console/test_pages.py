"""Every page over a lake with a whole loop in it, and over one with nothing."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from console.app import create_app
from console.pages import system
from console.render import NAV
from evaluators.experts import half
from evaluators.fill import label_salt
from evaluators.graders import build
from everlearn.prompts import prompt_key
from everlearn.task import load_task
from gateway.routes import ArmRoute, Routes, TaskRoute, write_routes
from tests.console.loop import RELEASE, SNAPSHOT, fill
from tests.console.session import Browser, browser, make_key, write_task
from tests.evaluators.lake import START, Rows

PAGES = [
    *(href for _, href, _ in NAV if href != "/labels"),
    "/releases/text2sql", f"/releases/text2sql?show={RELEASE}", f"/datasets/{SNAPSHOT}",
    f"/datasets/{SNAPSHOT}?split=dropped&why=duplicate", "/feedback?kind=comment&only=comments",
    "/feedback?only=waiting&author=expert", "/labels/text2sql", "/versions?version=2",
    "/versions?version=base", "/compare?a=1&b=2&grader=same",
]  # fmt: skip


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rows]:
    monkeypatch.setattr(system, "_addresses", lambda _: {"gateway": "http://127.0.0.1:9/health"})
    made = Rows(tmp_path)
    write_task(tmp_path, "text2sql")
    yield made
    made.lake.close()


@pytest.fixture
def session(rows: Rows) -> Iterator[Browser]:
    with browser(create_app(rows.service), make_key(rows.service, "operator")) as made:
        yield made


def opened(session: Browser, path: str) -> str:
    answer = session.get(path)
    if answer.status_code == 303:
        answer = session.get(answer.headers["location"])
    assert answer.status_code == 200, (path, answer.text)
    return str(answer.text)


def test_every_page_opens_over_nothing_and_over_a_whole_loop(rows: Rows, session: Browser) -> None:
    for path in PAGES:
        if not any(word in path for word in (RELEASE, SNAPSHOT, "a=1")):
            opened(session, path)
    fill(rows)
    for path in PAGES:
        assert "Traceback" not in opened(session, path)


def test_pages_say_what_stands_in_the_lake(rows: Rows, session: Browser) -> None:
    fill(rows)
    champion, challenger = ArmRoute(version="1", model="one"), ArmRoute(version="2", model="two")
    route = TaskRoute(champion=champion, challenger=challenger, challenger_share=0.5)
    write_routes(rows.service.routes_path, Routes(tasks={"text2sql": route}))
    for path, told in {
        "/": ("12", "promote e-value 9 &gt;= 2", "same", "prompt_chars moved"),
        "/feedback": ("too &lt;long&gt;", "teaching", "waits for"),
        f"/datasets/{SNAPSHOT}": ("accepted", "duplicate", "300"),
        "/compare?a=1&b=2": ("SELECT 1", "SELECT 2"),
        "/judges": ("same", "100.0 %", "computed: needs no vote", "Look 2", "41.5", "polyline"),
        "/judges?look=1": ("Look 1", "1.0 %"),
        "/versions?version=2": ("as <b>challenger", "promote e-value 9 &gt;= 2", "ConnectError"),
        "/releases/text2sql": ("promoted", "0.075", "polyline", "log e of harm"),
        "/system": ("away: ConnectError", "operator", "missing"),
    }.items():
        page = opened(session, path)
        for word in told:
            assert word in page, (path, word)


def test_an_mlflow_that_is_away_is_said_on_the_page(session: Browser) -> None:
    assert "ConnectError" in opened(session, "/runs")


@pytest.mark.parametrize(
    "path",
    [
        "/releases/nothing", "/releases/text2sql?show=rel_0", "/datasets/snap_0",
        "/compare?a=77", "/judges?task=nothing", "/judges?look=9", "/versions?task=nothing",
        "/runs?task=nothing", "/labels/nothing",
    ],
)  # fmt: skip
def test_what_does_not_exist_is_a_page(session: Browser, path: str) -> None:
    answer = session.get(path)
    assert (answer.status_code, "Not here" in answer.text) == (404, True)


@pytest.mark.parametrize("evidence", ['{"text2sql": 3}', '{"same": {"units": null}}', "{}", "[]"])
def test_evidence_of_any_shape_is_a_page(rows: Rows, session: Browser, evidence: str) -> None:
    fill(rows)
    row: dict[str, Any] = {
        "release_id": RELEASE, "task": "text2sql", "version": "2", "event": "step",
        "phase": "ramping", "stage": 0, "percent": 1.0, "reason": "", "created_at": 1_800_000_500.0,
        "evidence": evidence,
    }  # fmt: skip
    rows.lake.commit(lambda transaction: transaction.append("releases", [row]))
    opened(session, f"/releases/text2sql?show={RELEASE}")
    assert json.loads(evidence) is not None


def test_a_judge_says_on_its_page_why_its_vote_does_not_count(
    tmp_path: Path, rows: Rows, session: Browser
) -> None:
    path = tmp_path / "tasks" / "text2sql.yaml"
    task = yaml.safe_load(path.read_text())
    message = {"role": "user", "content": "Is it right? {{ sample.output_text }}"}
    judge = {"name": "kind", "type": "score_model", "model": "judge", "input": [message]}
    path.write_text(yaml.safe_dump({**task, "graders": [*task["graders"], judge]}))
    page = opened(session, "/judges")
    assert "only advises</b>: no certified label yet" in page
    assert "counts</b>: computed: needs no vote" in page


def test_a_rubric_judge_is_held_against_experts_by_criterion(
    tmp_path: Path, rows: Rows, session: Browser
) -> None:
    path = tmp_path / "tasks" / "text2sql.yaml"
    task = yaml.safe_load(path.read_text())
    rubric = {
        "name": "care", "type": "rubric_model", "model": "m",
        "criteria": [{"name": "gentle", "text": "it is gentle"}],
    }  # fmt: skip
    path.write_text(yaml.safe_dump(
        {**task, "graders": [*task["graders"], rubric], "labels": {"rubric": "care"}}
    ))  # fmt: skip
    salt = label_salt(rows.service)
    asked = (f"q{number}" for number in range(1000))
    prompt = next(q for q in asked if half(salt, prompt_key(_user(q))) == "certify")
    name = rows.answered(prompt, "yes", unit="ann")
    rows.said(name, kind="label", name="rubric.gentle", value_text="no", author="expert")
    declared = load_task(rows.service, "text2sql")
    score = {
        "completion_id": name, "task": "text2sql", "evaluator": "care", "value": 1.0,
        "evaluator_version": build(declared.grader("care"), declared).version, "context": "||",
        "sub_scores": '{"gentle": 1.0}', "created_at": START,
    }  # fmt: skip
    rows.lake.commit(lambda transaction: transaction.append("scores", [score]))
    page = opened(session, "/judges")
    assert "rubric judges by criterion" in page
    row = page.partition("<td>gentle</td>")[2].partition("</tr>")[0]
    assert [cell.partition("<")[0] for cell in row.split('<td class="n">')[1:]] == [
        "1", "0.0 %", "0 % to 100 %", "1", "0",
    ]  # fmt: skip


def _user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]

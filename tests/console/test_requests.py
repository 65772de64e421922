"""The list of requests and one of them: found by what one knows, whatever stands there."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from console.app import create_app
from console.pages import requests
from tests.console.session import Browser, browser, make_key, write_task
from tests.evaluators.lake import START, Rows


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[Rows]:
    made = Rows(tmp_path)
    write_task(tmp_path, "text2sql")
    yield made
    made.lake.close()


@pytest.fixture
def session(rows: Rows) -> Iterator[Browser]:
    with browser(create_app(rows.service), make_key(rows.service, "viewer")) as made:
        yield made


def test_requests_are_found_by_what_one_knows_of_them(rows: Rows, session: Browser) -> None:
    asked = json.dumps([{"role": "user", "content": "Wie viele Bäume?"}], ensure_ascii=False)
    first = rows.answered("", "42", messages=asked, unit="ann", arm="challenger", version="7")
    second = rows.answered("how many?", 'Drei "große"', unit="bob", status="filtered")
    score = {
        "completion_id": first, "task": "text2sql", "evaluator": "same", "value": 0.0,
        "created_at": START.timestamp() + 10,
    }  # fmt: skip
    rows.lake.commit(lambda transaction: transaction.append("scores", [score]))
    for query, found in {
        "": {first, second},
        "text=bäume": {first},
        "text=große": {second},
        "text=nothing": set(),
        "unit=ann": {first},
        "unit=ann&version=8": set(),
        "arm=challenger": {first},
        "version=7": {first},
        "status=filtered": {second},
        "grader=same": {first},
        "grader=same&verdict=bad": {first},
        "grader=same&verdict=good": set(),
        "text=%25": set(),
        "unit=' OR true --": set(),
    }.items():
        page = session.get(f"/requests?task=text2sql&{query}")
        assert page.status_code == 200, query
        assert {each for each in (first, second) if each in page.text} == found, query


@pytest.mark.parametrize("scanned", [20_000, 3])
def test_pages_show_every_request_once(
    rows: Rows, session: Browser, monkeypatch: pytest.MonkeyPatch, scanned: int
) -> None:
    """Rows of the same moment and a search that looks at a few rows a page included."""
    monkeypatch.setattr(requests, "PAGE", 2)
    monkeypatch.setattr(requests, "SCANNED", scanned)
    moments = [START.timestamp() + n // 3 for n in range(10)]
    ids = [rows.answered(f"q{n}", "x", received_at=at, unit="u") for n, at in enumerate(moments)]
    for query in ("/requests", "/requests?unit=u"):
        shown: list[str] = []
        address = query
        while address:
            assert len(shown) <= len(ids), query
            page = session.get(address).text
            here = [each for each in ids if f'href="/requests/{each}"' in page]
            shown += sorted(here, key=page.index)
            start = page.find('">older')
            address = page[page.rfind('href="', 0, start) + 6 : start] if start > 0 else ""
            address = address.replace("&amp;", "&")
        assert sorted(shown) == sorted(ids), query


def test_one_request_shows_all_that_is_known_of_it(rows: Rows, session: Browser) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "system", "content": "be <b>brief</b>"},
        {"role": "user", "content": [{"type": "text", "text": "hello"}, {"type": "image_url"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "rain"},
    ]
    answer = {"role": "assistant", "reasoning": "let me see", "content": "it rains"}
    made = rows.answered(
        "", "it rains", messages=json.dumps(messages), answer=json.dumps(answer), unit="ann",
        tools=json.dumps([{"type": "function"}]), probability=0.25, arm="challenger", version="3",
    )  # fmt: skip
    rows.said(made, comment="not <i>so</i>", author_id="bob")
    page = session.get(f"/requests/{made}").text
    for told in (
        "be &lt;b&gt;brief", "hello", "weather", "rain", "let me see", "25.0 %",
        "challenger", "not &lt;i&gt;so", "bob", "joined", "1 tools offered",
    ):  # fmt: skip
        assert told in page, told


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": "not json"},
        {"messages": "[" * 5000},
        {"messages": '["a", 1, null, {"role": 5, "content": {"x": 1}}]'},
        {"messages": None, "response_text": None, "status": "upstream_error", "error": "away"},
        {"answer": "[1]", "tools": "{", "sampling": "null", "metadata": '"x"'},
        {"answer": '{"tool_calls": [{"function": null}, {}], "reasoning": 3}'},
        {"response_text": None, "task": None, "version": None, "arm": None},
    ],
)
def test_whatever_was_captured_is_a_page(
    rows: Rows, session: Browser, fields: dict[str, Any]
) -> None:
    made = rows.answered("q", "x", **fields)
    assert session.get("/requests").status_code == 200
    assert session.get(f"/requests/{made}").status_code == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/requests/nothing", 404),
        ("/requests?task=nothing", 404),
        ("/?task=nothing", 404),
        ("/nothing", 404),
        ("/requests?before=yesterday", 400),
        ("/requests?before=2026-01-01T00:00:00", 200),
    ],
)
def test_a_wrong_address_is_a_page_with_the_way_back(
    session: Browser, path: str, status: int
) -> None:
    page = session.get(path)
    assert page.status_code == status
    assert page.headers["content-type"].startswith("text/html")
    assert ">Overview</a>" in page.text

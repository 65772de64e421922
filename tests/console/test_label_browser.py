"""The label page in a real browser, by keyboard alone; two labellers at once."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.console.browser import chromium, enter, served
from tests.console.test_label_page import PAGE, Desk, desk, rates_by_rubric

__all__ = ["desk"]

Enter = Callable[[], Page]


@pytest.fixture
def labeller(desk: Desk) -> Iterator[Enter]:
    """Opens the page for one labeller more; what the browser complains of fails the test."""
    said: list[str] = []
    with served(desk.app) as address, chromium() as browser:

        def open_page() -> Page:
            page = enter(browser, address, desk.app.state.token, PAGE)
            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            return page

        yield open_page
    assert said == []


def test_by_keyboard_alone_two_labellers_judge_every_answer_once(
    desk: Desk, labeller: Enter
) -> None:
    answers = desk.fill("one", "two", "three", "four", "five")
    ann, bob = labeller(), labeller()
    hers, his = _shown(ann), _shown(bob)
    assert hers != his
    ann.locator("#label [name=author_id]").fill("ann")
    ann.keyboard.press("Escape")
    _press(ann, "1")
    assert desk.taken.feedback[-1]["completion_id"] == hers
    assert desk.taken.feedback[-1]["author_id"] == "ann"
    assert ann.locator("#label [name=author_id]").input_value() == "ann"
    second = _shown(ann)
    ann.keyboard.press("c")
    ann.keyboard.type("1 and 2 are typed, and so are s, u")
    ann.keyboard.press("Enter")
    ann.keyboard.type("a second line")
    _press(ann, "Control+Enter")
    said = desk.taken.feedback[-2:]
    assert [(event["kind"], event["completion_id"]) for event in said] == [
        ("binary", second), ("correction", second),
    ]  # fmt: skip
    assert "typed, and so are s, u\na second line" in said[1]["value"].replace("\r", "")
    third = _shown(ann)
    _press(ann, "s")
    assert _shown(ann) not in (hers, his, second, third)
    _press(ann, "u")
    assert _shown(ann) == third
    _press(bob, "2")
    assert desk.taken.feedback[-1]["completion_id"] == his
    while _shown(ann) is not None:
        _press(ann, "1")
    judged = {event["completion_id"] for event in desk.taken.feedback}
    assert judged == set(answers)


def test_enter_in_a_field_gives_no_verdict_and_a_held_key_one(desk: Desk, labeller: Enter) -> None:
    desk.fill("one", "two", "three")
    ann = labeller()
    before = _shown(ann)
    ann.keyboard.press("n")
    ann.keyboard.type("a note")
    ann.keyboard.press("Enter")
    assert ann.locator("#label [name=comment]").input_value() == "a note"
    assert (_shown(ann), desk.taken.feedback) == (before, [])
    ann.keyboard.press("Escape")
    with ann.expect_navigation():
        for _ in range(5):
            ann.keyboard.down("1")  # the second and later ones repeat
    ann.keyboard.up("1")
    assert [event["completion_id"] for event in desk.taken.feedback] == [before]


def test_a_rubric_and_a_rating_are_given_by_keys(desk: Desk, labeller: Enter) -> None:
    rates_by_rubric(desk)
    desk.fill("one")
    ann = labeller()
    for key in ("y", "x", "r", "x", "n"):  # yes, no, the last stays the last; no, then a note
        ann.keyboard.press(key)
    ann.keyboard.type("5 y x r")
    ann.keyboard.press("Escape")
    _press(ann, "4")
    assert [(each["name"], each["value"]) for each in desk.taken.feedback] == [
        ("rating", 4), ("rubric.safe", "yes"), ("rubric.kind", "no"),
    ]  # fmt: skip
    assert desk.taken.feedback[0]["comment"] == "5 y x r"


def test_messages_are_walked_and_unfolded_by_keys(desk: Desk, labeller: Enter) -> None:
    desk.fill("one")
    ann = labeller()
    ann.keyboard.press("k")
    assert "question one" in ann.locator(".turn:focus").inner_text()
    ann.keyboard.press("j")
    assert "one" in ann.locator(".answer .turn:focus").inner_text()


def test_pairs_are_judged_by_keys(desk: Desk, labeller: Enter) -> None:
    for number in range(3):
        for text in ("one", "two"):
            desk.rows.answered(f"q{number}", f"{text} {number}", version=text)
    ann = labeller()
    ann.goto(ann.url + "/pairs")
    seen = []
    for key in ("1", "2", "t"):
        seen.append(ann.locator("#label [name=pair]").get_attribute("value"))
        _press(ann, key)
    assert len(set(seen)) == 3
    assert [each.get("tags", {}).get("side") for each in desk.taken.feedback] == ["A", "B", None]
    assert ann.locator("#label").count() == 0
    _press(ann, "u")
    assert ann.locator("#label [name=pair]").get_attribute("value") == seen[2]
    ann.keyboard.press("n")
    ann.keyboard.type("1 2 t u")
    ann.keyboard.press("Enter")
    ann.keyboard.press("Escape")
    _press(ann, "s")
    assert [each.get("kind") for each in desk.taken.feedback[2:]] == ["label", "retraction"]


def _press(page: Page, key: str) -> None:
    with page.expect_navigation():
        page.keyboard.press(key)


def _shown(page: Page) -> Any:
    field = page.locator("#label [name=completion_id]")
    return field.get_attribute("value") if field.count() else None

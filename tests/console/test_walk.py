"""A real browser walks every page over a whole loop: nothing complains, nothing is wider than the
window, everything has a name and is reached by keyboard, every link leads somewhere."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page

from console.app import create_app
from console.pages import system
from console.render import NAV
from tests.console.browser import chromium, enter, served
from tests.console.loop import RELEASE, SNAPSHOT, fill
from tests.console.session import write_task
from tests.evaluators.lake import Rows

CHECK = (Path(__file__).parent / "walk.js").read_text()
WIDTHS = (1280, 390)
KINDS = ("/requests/", "/datasets/", "/releases/", "/versions?", "/judges?", "/compare?", "/runs?")
"""Beside the navigation's pages, one of each of these is opened, as a link of a page has it."""


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    """Of a console over a loop, and its token."""
    monkeypatch.setattr(system, "_addresses", lambda _: {"gateway": "http://127.0.0.1:9/health"})
    rows = Rows(tmp_path)
    write_task(tmp_path, "text2sql")
    fill(rows)
    app = create_app(rows.service)
    with served(app) as here:
        yield here, app.state.token
    rows.lake.close()


def test_every_page_works_at_every_width(address: tuple[str, str]) -> None:
    here, token = address
    with chromium() as browser:
        page = enter(browser, here, token, "/")
        faults, links = list[str](), set[str]()
        page.on("console", lambda said: faults.append(f"{page.url}: {said.text}"))
        page.on("pageerror", lambda error: faults.append(f"{page.url}: {error}"))
        page.on(
            "response",
            lambda got: faults.append(f"{got.url}: {got.status}") if got.status >= 400 else None,
        )
        _reached_by_keyboard(page)
        for href in (href for _, href, _ in NAV):
            links |= _look(page, here, href, faults)
        assert {f"/datasets/{SNAPSHOT}", f"/releases/text2sql?show={RELEASE}"} <= links
        for kind in KINDS:
            found = [link for link in sorted(links) if link.startswith(kind)]
            assert found, f"no page links to {kind}"
            _look(page, here, found[0], faults)
        assert faults == []


def _look(page: Page, here: str, href: str, faults: list[str]) -> set[str]:
    """Open it, note what is wrong with it, return what it links to."""
    page.goto(here + href, wait_until="domcontentloaded")
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 800})
        faults += [f"{href} at {width}: {fault}" for fault in page.evaluate(CHECK)]
    found: list[str] = page.eval_on_selector_all("a[href]", "all => all.map(a => a.href)")
    own = [urlsplit(link) for link in found if link.startswith(here + "/")]
    return {f"{link.path}?{link.query}" if link.query else link.path for link in own}


def _reached_by_keyboard(page: Page) -> None:
    """First a way past the navigation, then each of its pages, each to be seen when reached."""
    where = "() => [document.activeElement.href, getComputedStyle(document.activeElement).outline]"
    reached, outlines = list[str](), set[str]()
    for _ in range(len(NAV) + 2):
        page.keyboard.press("Tab")
        href, outline = page.evaluate(where)
        reached.append(urlsplit(href).fragment or urlsplit(href).path)
        outlines.add(outline)
    assert reached == ["main", "/", *(href for _, href, _ in NAV)]
    assert not any("none" in outline for outline in outlines)
    page.keyboard.press("Enter")
    page.wait_for_url("**/system")

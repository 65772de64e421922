"""A real browser before a console that is served for it: Chromium, driven by Playwright."""

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI
from playwright.sync_api import Browser, Page, sync_playwright

from tests.ports import find_free_port

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PATIENCE_MS = 60_000
"""A loaded machine takes its time."""


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The console's address."""
    port = find_free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 120
    while not server.started:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=20)


@contextmanager
def chromium() -> Iterator[Browser]:
    """It is one of the packages of `deploy/system-packages.sh`."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    assert path is not None, "no Chromium: deploy/system-packages.sh installs it"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


def enter(browser: Browser, address: str, token: str, path: str) -> Page:
    """Somebody of his own, with cookies of his own, let in by the printed address."""
    page = browser.new_context().new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(f"{address}{path}?token={token}")
    return page

"""Photographs the console's pages: `python deploy/screenshots.py everlearn.yaml`.

Writes `docs/images/PAGE.png`, which the docs show, each under 150 kB. The installation is read and
need not run; `make demo` leaves one. Wants Playwright and a Chromium (`deploy/system-packages.sh`).
"""

import shutil
import sys
import threading
import time
from pathlib import Path

import uvicorn
from playwright.sync_api import Page, sync_playwright

from console.app import create_app
from everlearn.config import load

HERE = Path(__file__).parents[1] / "docs" / "images"
PAGES = {
    "overview": "/",
    "requests": "/requests",
    "feedback": "/feedback",
    "judges": "/judges",
    "release": "/releases",
}
WIDTH, HEIGHT, MAX_BYTES = 1100, 560, 150_000
NAMES = ("chromium", "chromium-browser", "google-chrome")


def main() -> None:
    """Serve, look, keep."""
    app = create_app(load(sys.argv[1]), config=Path(sys.argv[1]))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.05)
    address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    browser_path = next(filter(None, map(shutil.which, NAMES)), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(f"{address}/?token={app.state.token}")
        for name, path in PAGES.items():
            _keep(page, address + path, HERE / f"{name}.png")
        browser.close()
    server.should_exit = True


def _keep(page: Page, address: str, path: Path) -> None:
    answer = page.goto(address, wait_until="domcontentloaded")
    assert answer is not None, address
    assert answer.ok, address
    page.screenshot(path=path)
    size = path.stat().st_size
    assert size < MAX_BYTES, f"{path}: {size} bytes, and no more than {MAX_BYTES} are kept"
    print(f"{path} {size // 1000} kB")


if __name__ == "__main__":
    main()

"""A server on a free port that takes feedback as the gateway does."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient

from tests.ports import find_free_port


class Gateway:
    """`feedback`: what it took; `status`: what it answers."""

    def __init__(self) -> None:
        self.port = find_free_port()
        self.feedback: list[dict[str, Any]] = []
        self.status = 202


@contextmanager
def gateway() -> Iterator[Gateway]:
    """Runs until the block ends."""
    taken, app = Gateway(), FastAPI()

    @app.post("/v1/feedback")
    def feedback(events: list[dict[str, Any]]) -> JSONResponse:
        if taken.status == 202:
            taken.feedback += events
        return JSONResponse([{"status": "accepted"} for _ in events], taken.status)

    server = uvicorn.Server(uvicorn.Config(app, port=taken.port, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 120
    while not server.started:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    try:
        yield taken
    finally:
        server.should_exit = True
        thread.join(timeout=20)


def entered(app: FastAPI, **options: Any) -> TestClient:
    """A client that was let in."""
    headers = {"authorization": f"Bearer {app.state.token}"}
    return TestClient(
        app, base_url="http://127.0.0.1:8200", headers=headers, follow_redirects=False, **options
    )


def answering(address: str) -> str:
    """The page, once there is somebody to answer."""
    deadline = time.monotonic() + 120
    with httpx.Client(timeout=30, follow_redirects=True) as session:  # it keeps the cookie
        while True:
            try:
                return session.get(address).text
            except httpx.ConnectError:
                assert time.monotonic() < deadline
                time.sleep(0.1)

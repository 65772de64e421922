"""A real OpenAI-compatible server on a free port that answers as a test tells it."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from tests.ports import find_free_port

Answer = Callable[[dict[str, Any]], Response]


class JudgeServer:
    """`requests` are the bodies it got, `headers` those of the last one."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: dict[str, str] = {}
        self.answer: Answer = says("1")
        self.address = ""


def says(content: str | list[Any] | None, **message: Any) -> Answer:
    """A completion with this text."""
    body = {
        "choices": [{"message": {"role": "assistant", "content": content, **message}}],
        "usage": {"prompt_tokens": 30, "completion_tokens": 4},
    }
    return lambda request: JSONResponse(body)


def answers(status: int, body: str = "{}") -> Answer:
    """This status with this body."""
    return lambda request: Response(body, status, media_type="application/json")


@contextmanager
def judge_server() -> Iterator[JudgeServer]:
    """Runs until the block ends."""
    judge, app = JudgeServer(), FastAPI()

    @app.post("/v1/embeddings")
    @app.post("/v1/chat/completions")
    def complete(request: Request, body: dict[str, Any]) -> Response:
        judge.requests.append(body)
        judge.headers = dict(request.headers)
        return judge.answer(body)

    port = find_free_port()
    server = uvicorn.Server(
        uvicorn.Config(app, port=port, log_level="critical", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    judge.address = f"http://127.0.0.1:{port}/v1"
    try:
        yield judge
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        assert not thread.is_alive()

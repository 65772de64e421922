"""A chat server whose every answer the test decides, and which counts what it was asked."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[dict[str, Any]], tuple[int, dict[str, Any]]]
"""From a request body to status and body."""


@dataclass
class Scripted:
    """A running server."""

    address: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    busy: int = 0
    most: int = 0
    """Most requests in flight at once."""
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def scripted(answer: Answer) -> Iterator[Scripted]:
    """A server on a free port until the block ends."""
    seen = Scripted()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with seen.lock:
                seen.bodies.append(body)
                seen.keys.append(self.headers["authorization"])
                seen.busy += 1
                seen.most = max(seen.most, seen.busy)
            status, content = answer(body)
            with seen.lock:
                seen.busy -= 1
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    seen.address = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def chat(content: str, finish_reason: str = "stop", tokens: int = 10) -> dict[str, Any]:
    """An ordinary answer."""
    return {
        "choices": [
            {
                "index": 0,
                "finish_reason": finish_reason,
                "message": {"role": "assistant", "content": content},
            }
        ],
        "usage": {"prompt_tokens": 100, "completion_tokens": tokens},
    }

"""The house model: somebody else's large model, played by a script: right nine times in ten, dear.

An OpenAI-compatible server that imports nothing of everlearn. It knows the tickets it is told of
(`know`) and answers each always the same, so a mistake is a mistake again when it is asked again.
"""

import hashlib
import json
import time
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from examples.support.tickets import COMPLAINTS, Ticket

WRONG = 0.1
MODEL = "house-large"
SECONDS = 0.4
"""Of an answer, as a large model far away takes them."""


class House:
    """The server, on its own threads while the block runs."""

    def __init__(self, port: int = 0, wrong: float = WRONG, seconds: float = 0.0) -> None:
        self._tickets: dict[str, Ticket] = {}
        self._wrong, self._port, self._seconds = wrong, port, seconds
        self.asked = 0

    def __enter__(self) -> "House":
        house = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                house._answer(self, body)

            def do_GET(self) -> None:
                _send(self, 200, {"object": "list", "data": [{"id": MODEL, "object": "model"}]})

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._server.daemon_threads = True
        self._thread = Thread(target=self._server.serve_forever, name="house", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=10)

    @property
    def address(self) -> str:
        """Up to /v1."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def know(self, tickets: Iterable[Ticket]) -> None:
        """What a large model would understand by itself."""
        self._tickets |= {ticket.text: ticket for ticket in tickets}

    def says(self, ticket: Ticket) -> str:
        """Its answer: right, or another queue than the one that helps."""
        digest = hashlib.sha256(f"house {ticket.text}".encode()).digest()
        if int.from_bytes(digest[:4], "big") / 2**32 >= self._wrong:
            return ticket.answer
        others = [queue for queue in COMPLAINTS if queue != ticket.queue]
        return ticket.answer.replace(ticket.queue, others[digest[4] % len(others)])

    def _answer(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        asked = str(body["messages"][-1]["content"])
        ticket = self._tickets.get(asked)
        self.asked += 1
        time.sleep(self._seconds)
        text = self.says(ticket) if ticket else "I have never seen such a ticket."
        choice = {"index": 0, "finish_reason": "stop"}
        reply = {
            "id": f"house-{self.asked}",
            "created": int(time.time()),
            "model": MODEL,
            # A word is a token and a third, roughly.
            "usage": {
                "prompt_tokens": 20 + len(asked) // 4,
                "completion_tokens": len(text) // 3,
                "total_tokens": 20 + len(asked) // 4 + len(text) // 3,
            },
        }
        if body.get("stream"):
            chunk = {**reply, "object": "chat.completion.chunk"}
            delta = {**choice, "delta": {"role": "assistant", "content": text}}
            _stream(handler, [{**chunk, "choices": [delta]}])
        else:
            message = {"role": "assistant", "content": text}
            whole = {**reply, "object": "chat.completion"}
            _send(handler, 200, {**whole, "choices": [{**choice, "message": message}]})


def _send(handler: BaseHTTPRequestHandler, status: int, content: Any) -> None:
    data = json.dumps(content).encode()
    handler.send_response(status)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


def _stream(handler: BaseHTTPRequestHandler, chunks: list[dict[str, Any]]) -> None:
    events = [*map(json.dumps, chunks), "[DONE]"]
    data = "".join(f"data: {event}\n\n" for event in events).encode()
    handler.send_response(200)
    handler.send_header("content-type", "text/event-stream")
    handler.send_header("content-length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)

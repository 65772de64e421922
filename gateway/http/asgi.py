"""Runs an ASGI app for the routes that are not hot: one whole request, one whole answer."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import unquote

from gateway.http.client import Client
from gateway.http.heads import Request
from gateway.http.wire import HOP_BY_HOP, header_lines

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
App = Callable[
    [Scope, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]],
    Awaitable[None],
]
_DROP = HOP_BY_HOP | {b"content-length"}


async def run(app: App, request: Request, client: Client) -> None:
    """Answer `request` with what `app` says."""
    status, headers, pieces = 500, [], []
    sent = False

    async def receive() -> Message:
        nonlocal sent
        if sent:
            return {"type": "http.disconnect"}
        sent = True
        return {"type": "http.request", "body": request.body, "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status, headers
        if message["type"] == "http.response.start":
            status, headers = message["status"], list(message["headers"])
        else:
            pieces.append(message.get("body", b""))

    await app(scope(request), receive, send)
    client.respond(status, header_lines(headers, _DROP), b"".join(pieces))


def scope(request: Request) -> Scope:
    """The ASGI form of a request's head."""
    path = request.path.decode("latin-1")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.0" if request.head.http10 else "1.1",
        "method": request.method.decode("latin-1"),
        "scheme": "http",
        "path": unquote(path),
        "raw_path": request.path,
        "query_string": request.head.query,
        "root_path": "",
        "headers": request.headers,
        "client": None,
        "server": None,
        "state": {},
    }

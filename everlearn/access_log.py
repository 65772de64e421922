"""One line of the process log per request: ASGI middleware of the model server and the console.

The route as it is declared, never the address as it was asked for (it may hold a token, a name or
a search), and nobody's address. A request that failed here is always told.
"""

import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from everlearn.process_log import about

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class AccessLog:
    """Around `app`; `every`: not only what failed."""

    def __init__(self, app: App, *, every: bool) -> None:
        self._app, self._every = app, every

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        began, status = time.perf_counter(), 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            if self._every or status >= 500:
                self._tell(scope, status, (time.perf_counter() - began) * 1000)

    def _tell(self, scope: Scope, status: int, ms: float) -> None:
        route = getattr(scope.get("route"), "path_format", None) or "other"
        level = logging.ERROR if status >= 500 else logging.INFO
        extra: dict[str, Any] = dict(about(None, _request_id(scope)))
        extra |= {"route": route, "http_status": status, "ms": round(ms, 1)}
        log.log(level, "%s", scope["method"], extra=extra)


def _request_id(scope: Scope) -> str | None:
    found = dict(scope["headers"]).get(b"x-request-id")
    return None if found is None else found.decode("utf-8", "replace")

"""What the console says to Prometheus of itself: requests by page, and how long answers took.

A page is the pattern of its address, never the address: who asks for a million names makes no
million series.
"""

import time

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0)
"""A page is to take 0.3 s at most: the bounds are close there."""
_METHODS = ("GET", "HEAD", "POST")


class Metrics:
    """Of one application, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "everlearn_console_requests", "Requests by page and by what was answered.",
            ("method", "page", "code"), registry=self.registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "everlearn_console_request_seconds", "Until the answer began.", ("page",),
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip

    def answered(self, scope: Scope, code: int, seconds: float) -> None:
        """Count one request."""
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self.requests.labels(method, _page(scope), str(code)).inc()
        self.seconds.labels(_page(scope)).observe(seconds)


class Measured:
    """ASGI middleware around everything, the door too."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        began, code = time.perf_counter(), 500

        async def noted(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                # Pages that stay open listen for minutes: what counts is when the answer began.
                code = message["status"]
                self._metrics.answered(scope, code, time.perf_counter() - began)
            await send(message)

        await self._app(scope, receive, noted)


def _page(scope: Scope) -> str:
    """The pattern of the route that answered; the files are one, and so is whatever is no page."""
    pattern = getattr(scope.get("route"), "path_format", None)
    if pattern is not None:
        return str(pattern)
    return "/static" if scope["path"].startswith("/static/") else "other"

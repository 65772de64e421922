"""The console: the loop as pages, the capture ledger and the grader routes.

- Reads the lake and never writes it, but for the table `audit`: a label takes the way of all
  feedback, through the gateway, and what moves traffic is a verb of the release desk.
- Nobody comes in without a key or the token, by another name or from another site (`door`).
- Whatever goes wrong is a page for a browser and OpenAI's error body for a program.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Event

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from console.audit import Audit
from console.door import Door, new_token
from console.gauges import Loop
from console.metrics import Measured, Metrics
from console.pages import (
    compare,
    completeness,
    datasets,
    feedback,
    graders,
    judges,
    labels,
    live,
    overview,
    pairs,
    releases,
    requests,
    runs,
    system,
    versions,
)
from console.render import page, wants_page
from console.session import Keys, Sessions
from console.source import Source
from everlearn.access_log import AccessLog
from everlearn.clock import Clock, SystemClock
from everlearn.config import Service
from everlearn.errors import EverlearnError, NotFound

ROUTERS = (
    overview.router,
    requests.router,
    feedback.router,
    labels.router,
    pairs.router,
    judges.router,
    datasets.router,
    runs.router,
    versions.router,
    compare.router,
    releases.router,
    system.router,
    live.router,
    completeness.router,
    graders.router,
)


def create_app(
    service: Service,
    token: str | None = None,
    *,
    config: Path | None = None,
    clock: Clock | None = None,
) -> FastAPI:
    """The application over one config; without a token it makes one: `app.state.token`."""
    source, audit = Source(service, config), Audit(service)
    token = token or new_token(service)
    metrics = Metrics()
    metrics.registry.register(Loop(source))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        app.state.ending.set()
        source.close()
        audit.close()

    app = FastAPI(
        title="everlearn console", lifespan=lifespan,
        docs_url=None, redoc_url=None, openapi_url=None,
    )  # fmt: skip
    app.state.source, app.state.token = source, token
    app.state.ending, app.state.metrics = Event(), metrics
    app.add_middleware(
        Door, console=service.console, token=token, keys=Keys(service),
        sessions=Sessions(clock or SystemClock()), audit=audit,
    )  # fmt: skip
    app.add_middleware(Measured, metrics=metrics)
    app.add_middleware(AccessLog, every=service.logging.requests)
    app.exception_handler(EverlearnError)(_error)
    app.exception_handler(HTTPException)(_http_error)
    for router in ROUTERS:
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"))
    return app


async def _error(request: Request, error: Exception) -> Response:
    """404 and 400 where the address or the input is wrong, else 503."""
    assert isinstance(error, EverlearnError)
    mistaken = error.exit_code == 2
    request.state.audit = {**getattr(request.state, "audit", {}), "outcome": f"refused: {error}"}
    if wants_page(request.headers):
        if isinstance(error, NotFound):
            return page(request, "error", 404, title="Not here", reason=str(error))
        title = "Not done" if mistaken else "Not to be had just now"
        return page(request, "error", 400 if mistaken else 503, title=title, reason=str(error))
    kind = "invalid_request_error" if mistaken else "server_error"
    body = {"message": str(error), "type": kind, "param": None, "code": None}
    return JSONResponse({"error": body}, 400 if mistaken else 503)


async def _http_error(request: Request, error: Exception) -> Response:
    """What the router says: no such page, no such method."""
    assert isinstance(error, HTTPException)
    if wants_page(request.headers):
        reason = f"{request.url.path}: {error.detail}"
        return page(request, "error", error.status_code, title="Not here", reason=reason)
    return JSONResponse({"detail": error.detail}, error.status_code)

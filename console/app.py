"""The console: the overview, the label page, the capture ledger and the grader routes.

- Reads the lake, never writes it: a label takes the way of all feedback, through the gateway.
- A form posted from another site is refused.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from console.pages import completeness, graders, labels, overview
from console.source import Source
from everlearn.config import Service
from everlearn.errors import EverlearnError

ROUTERS = (overview.router, labels.router, completeness.router, graders.router)


def create_app(service: Service) -> FastAPI:
    """The application over one config."""
    source = Source(service)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        source.close()

    app = FastAPI(title="everlearn console", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.source = source
    app.middleware("http")(_same_site)
    app.exception_handler(EverlearnError)(_error)
    for router in ROUTERS:
        app.include_router(router)
    return app


async def _same_site(
    request: Request, call_next: Callable[[Request], Awaitable[Response]]
) -> Response:
    site = request.headers.get("sec-fetch-site", "none")
    if request.method == "POST" and site not in ("same-origin", "none"):
        return JSONResponse({"error": {"message": "posted from another site"}}, 403)
    return await call_next(request)


async def _error(request: Request, error: Exception) -> JSONResponse:
    """OpenAI's error body: 400 where the input is wrong, else 503."""
    assert isinstance(error, EverlearnError)
    mistaken = error.exit_code == 2
    kind = "invalid_request_error" if mistaken else "server_error"
    body = {"message": str(error), "type": kind, "param": None, "code": None}
    return JSONResponse({"error": body}, 400 if mistaken else 503)

"""The console: the overview, the label page, the capture ledger and the grader routes.

- Reads the lake, never writes it: a label takes the way of all feedback, through the gateway.
- Nobody comes in without the token, nor by another name or from another site (`door`).
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.staticfiles import StaticFiles

from console.door import Door, new_token
from console.pages import completeness, graders, labels, overview
from console.source import Source
from everlearn.config import Service
from everlearn.errors import EverlearnError

ROUTERS = (overview.router, labels.router, completeness.router, graders.router)


def create_app(service: Service, token: str | None = None) -> FastAPI:
    """The application over one config; without a token it makes one: `app.state.token`."""
    source = Source(service)
    token = token or new_token(service)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        source.close()

    app = FastAPI(
        title="everlearn console", lifespan=lifespan,
        docs_url=None, redoc_url=None, openapi_url=None,
    )  # fmt: skip
    app.state.source, app.state.token = source, token
    app.add_middleware(Door, console=service.console, token=token)
    app.exception_handler(EverlearnError)(_error)
    for router in ROUTERS:
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"))
    return app


async def _error(request: Request, error: Exception) -> JSONResponse:
    """OpenAI's error body: 400 where the input is wrong, else 503."""
    assert isinstance(error, EverlearnError)
    mistaken = error.exit_code == 2
    kind = "invalid_request_error" if mistaken else "server_error"
    body = {"message": str(error), "type": kind, "param": None, "code": None}
    return JSONResponse({"error": body}, 400 if mistaken else 503)

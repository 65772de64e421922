"""The routes of the local model server: a path table over `Serving` and `Models`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from everlearn import __version__
from serving.local import errors
from serving.local.completions import Serving, deliver
from serving.local.engine import MAX_WAITING, Engine, Event
from serving.local.errors import json_response, whole_body
from serving.local.metrics import Metrics
from serving.local.model import Model
from serving.local.models import Models
from serving.local.protocol import (
    ChatRequest,
    CompletionRequest,
    LoadAdapter,
    TokenizeRequest,
    UnloadAdapter,
)
from serving.local.render import TokenTexts


def make_app(
    model: Model, *, name: str, max_batch: int, max_adapters: int, max_waiting: int = MAX_WAITING
) -> FastAPI:
    """The server over one loaded model; the engine runs while the app does."""
    loop: asyncio.AbstractEventLoop | None = None

    def publish(events: list[Event]) -> None:
        assert loop is not None
        loop.call_soon_threadsafe(deliver, events)

    engine = Engine(model, max_batch, publish, max_waiting=max_waiting)
    models = Models(engine, name, max_adapters)
    serving = Serving(engine, models, TokenTexts(model.tokenizer), Metrics(engine, name))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        nonlocal loop
        loop = asyncio.get_running_loop()
        engine.start()
        yield
        await asyncio.to_thread(engine.stop)

    app = FastAPI(title="everlearn model server", version=__version__, lifespan=lifespan)
    app.state.engine = engine
    errors.install(app)
    _completion_routes(app, serving)
    _model_routes(app, models)
    _state_routes(app, serving)
    return app


def _completion_routes(app: FastAPI, serving: Serving) -> None:
    # Bodies are parsed by pydantic straight from bytes: half the time of FastAPI's own way.
    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        body = ChatRequest.model_validate_json(await whole_body(request))
        return await serving.chat(body, request)

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        body = CompletionRequest.model_validate_json(await whole_body(request))
        return await serving.text(body, request)

    @app.post("/tokenize")
    async def tokenize(request: Request) -> Response:
        body = TokenizeRequest.model_validate_json(await whole_body(request))
        serving.models.find(body.model)
        if body.messages is not None:
            chat = ChatRequest(
                messages=body.messages, add_generation_prompt=body.add_generation_prompt
            )
            tokens = await serving.beside(serving.chat_prompt, chat)
        else:
            special = body.add_special_tokens is not False
            tokens = await serving.beside(serving.text_prompt, body.prompt or "", special)
        length = serving.engine.model.max_len
        return json_response({"tokens": tokens, "count": len(tokens), "max_model_len": length})


def _model_routes(app: FastAPI, models: Models) -> None:
    @app.get("/v1/models")
    async def list_models() -> Response:
        return json_response(models.listed())

    @app.get("/v1/models/{name:path}")
    async def show_model(name: str) -> Response:
        found, _ = models.find(name)
        cards: list[dict[str, Any]] = models.listed()["data"]
        return json_response(next(card for card in cards if card["id"] == found))

    @app.post("/v1/load_lora_adapter")
    async def load_lora_adapter(body: LoadAdapter) -> Response:
        return Response(await models.load(body), media_type="text/plain")

    @app.post("/v1/unload_lora_adapter")
    async def unload_lora_adapter(body: UnloadAdapter) -> Response:
        return Response(await models.unload(body), media_type="text/plain")


def _state_routes(app: FastAPI, serving: Serving) -> None:
    @app.get("/health")
    async def health() -> Response:
        return Response(status_code=200 if serving.engine.alive else 503)

    @app.get("/version")
    async def version() -> Response:
        return json_response({"version": f"everlearn {__version__}"})

    @app.get("/metrics")
    async def metrics() -> Response:
        text = generate_latest(serving.metrics.registry)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

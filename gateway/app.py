"""Everything that is not a hot route: feedback, models, health, metrics. FastAPI serves it."""

import json
import os
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from everlearn import __version__
from gateway.feedback import MAX_ITEMS, FeedbackAnswer, FeedbackIn, parse, read
from gateway.feedback_formats import FORMATS, PORTKEY
from gateway.feedback_formats.format import Format, Sent, with_key
from gateway.http.wire import ERROR_TYPES, Refusal, error_body
from gateway.intake import Intake, in_terms_of
from gateway.keys import Holder
from gateway.metrics import DROPPED
from gateway.parts import Parts

JSON = "application/json"


def build(parts: Parts) -> FastAPI:
    """The app over a worker's parts."""
    settings = parts.service.gateway
    # Without its description there are no pages over it either.
    described = "/openapi.json" if settings.docs else None
    app = FastAPI(title="everlearn gateway", version=__version__, openapi_url=described)
    _errors(app)
    app.add_middleware(_Beacons)

    def key(request: Request) -> None:
        _holder(parts, request)

    keyed = [Depends(key)]
    _feedback(app, parts)
    app.get("/v1/models", dependencies=keyed)(_models(parts))
    app.get("/v1/models/{model:path}", dependencies=keyed)(_model(parts))
    _state(app, parts)
    if settings.metrics:
        _metrics(app, parts)
    return app


class _Beacons:
    """A browser's `sendBeacon` says text/plain of whatever it sends: on the feedback route the text
    is JSON, and is judged as such."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/v1/feedback":
            headers = [
                (name, b"application/json")
                if name == b"content-type" and value.lower().startswith(b"text/plain")
                else (name, value)
                for name, value in scope["headers"]
            ]
            scope = {**scope, "headers": headers}
        await self._app(scope, receive, send)


def _holder(parts: Parts, request: Request) -> Holder | None:
    return parts.keyring.holder(dict(request.headers.raw))


def _described() -> dict[str, Any]:
    """The body of feedback, for the route's description: it is read by our own hand."""
    one = FeedbackIn.model_json_schema()
    many = {"type": "array", "items": one, "maxItems": MAX_ITEMS}
    content = {"application/json": {"schema": {"anyOf": [one, many]}}}
    return {"requestBody": {"required": True, "content": content}}


def _feedback(app: FastAPI, parts: Parts) -> None:
    """Ours, and those of other tools."""
    intake = Intake(parts)
    portkey = _translated(parts, intake, PORTKEY)

    @app.post(
        "/v1/feedback",
        status_code=202,
        response_model=FeedbackAnswer | list[FeedbackAnswer],
        openapi_extra=_described(),
    )
    async def feedback(request: Request) -> Any:
        """Say what you think of a completion; an array of up to 1,000 at once."""
        content = parse(await request.body())
        if PORTKEY.sent_it(dict(request.headers.raw), content):
            return await portkey(request)
        holder = _holder(parts, request)
        items, many = read(content)
        answers = await intake.take(holder, items)
        return answers if many else answers[0]

    for form in FORMATS:
        described = {"parameters": _path_parameters(form.path)}
        route = app.post(form.path, name=type(form).__name__, openapi_extra=described)
        route(_translated(parts, intake, form))


def _path_parameters(path: str) -> list[dict[str, Any]]:
    """As OpenAPI describes them: the routes read them off the request themselves."""
    _, _, names = compile_path(path)
    schema = {"type": "string"}
    return [{"name": name, "in": "path", "required": True, "schema": schema} for name in names]


def _translated(
    parts: Parts, intake: Intake, form: Format
) -> Callable[[Request], Awaitable[Response]]:
    async def feedback(request: Request) -> Response:
        """Feedback as the clients of another tool send it."""
        headers = None
        try:
            holder = parts.keyring.holder(with_key(dict(request.headers.raw)))
            names = {**request.query_params, **request.path_params}
            key = None if holder is None else holder.key
            sent = Sent(parse(await request.body()), names, key)
            status, content = await intake.translate(form, sent, holder)
        except Refusal as refusal:
            status, content = form.refused(in_terms_of(form, refusal))
            headers = _retry_after(refusal)
        if isinstance(content, str):
            return Response(content, status, headers, "text/plain")
        # In ASCII, so that an id which is told again may hold half a character.
        return Response(json.dumps(content), status, headers, JSON)

    return feedback


def _retry_after(refusal: Refusal) -> dict[str, str]:
    if refusal.retry_after_seconds is None:
        return {}
    return {"retry-after": str(max(1, round(refusal.retry_after_seconds)))}


def _models(parts: Parts) -> Any:
    async def models(request: Request) -> Any:
        """Tasks first, then the models of the default upstream."""
        holder = _holder(parts, request)
        allowed = holder.key.tasks if holder is not None else ()
        rows = [_row(name) for name in parts.tasks if not allowed or name in allowed]
        upstream = parts.default_upstream
        if upstream is not None and not allowed:
            own_key = holder is not None
            answer = await upstream.get(b"/models", request.headers.raw, own_key=own_key)
            if answer is not None and answer.status == 200:
                rows += [row for row in _listed(answer.body) if row["id"] not in parts.tasks]
        return {"object": "list", "data": rows}

    return models


def _listed(body: bytes) -> list[dict[str, Any]]:
    """The models of a list as servers send it, and none where it is no list of models."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return []
    rows = found.get("data") if isinstance(found, dict) else found
    if not isinstance(rows, list):
        return []
    return [row for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str)]


def _model(parts: Parts) -> Any:
    async def model(model: str, request: Request) -> Response:
        """One task or one model of the default upstream."""
        holder = _holder(parts, request)
        allowed = holder.key.tasks if holder is not None else ()
        if model in parts.tasks and (not allowed or model in allowed):
            return JSONResponse(_row(model))
        upstream = parts.default_upstream
        # Dots are no name: some servers take them for a way to elsewhere, escaped or not.
        moves = any(part in (".", "..") for part in model.split("/"))
        if upstream is not None and not allowed and not moves:
            own_key = holder is not None
            suffix = b"/models/" + quote(model, safe="").encode()
            answer = await upstream.get(suffix, request.headers.raw, own_key=own_key)
            if answer is not None:
                return Response(answer.body, answer.status, media_type=JSON)
        raise Refusal(404, f"The model `{model}` does not exist.", "model_not_found", param="model")

    return model


def _row(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "everlearn"}


def _state(app: FastAPI, parts: Parts) -> None:
    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Alive, and this worker's state of capture; the warning of drops is of all workers."""
        stats = parts.recorder.stats()
        parts.observe()
        dropped = int(parts.metrics.total(DROPPED))
        warnings = [
            text
            for wrong, text in (
                (dropped > 0, f"{dropped} events were dropped: the log or the disk was full"),
                (parts.recorder.errors > 0, f"{parts.recorder.errors} events failed to encode"),
                (not stats.accepting, "capture is full: requests are refused"),
                (parts.table.error is not None, f"routes kept as they were: {parts.table.error}"),
                (parts.keyring.error is not None, f"keys kept as they were: {parts.keyring.error}"),
            )
            if wrong
        ]
        return {
            "status": "degraded" if warnings else "ok",
            "warnings": warnings,
            "worker": parts.worker,
            "pid": os.getpid(),
            "in_flight": parts.in_flight,
            "routes": {"generation": parts.table.generation, "error": parts.table.error},
            "authority": "keys" if parts.keyring.required else "open",
            "keys": {"required": parts.keyring.required, "error": parts.keyring.error},
            "capture": {
                "durability": parts.service.gateway.capture.durability,
                "errors": parts.recorder.errors,
                **{name: getattr(stats, name) for name in stats.__dataclass_fields__},
            },
        }

    @app.get("/ready")
    async def ready() -> JSONResponse:
        """Whether traffic may be sent here."""
        draining = parts.server is not None and parts.server.draining
        ok = not draining and parts.recorder.accepting and parts.keyring.ready
        return JSONResponse({"ready": ok}, 200 if ok else 503)


def _metrics(app: FastAPI, parts: Parts) -> None:
    @app.get("/metrics")
    async def metrics() -> Response:
        """Prometheus."""
        parts.observe()
        return Response(parts.metrics.render(), media_type="text/plain; version=0.0.4")


def _errors(app: FastAPI) -> None:
    """Every error in OpenAI's shape."""

    @app.exception_handler(Refusal)
    async def refused(_: Request, refusal: Refusal) -> Response:
        return Response(refusal.body(), refusal.status, _retry_after(refusal), JSON)

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        kind = ERROR_TYPES.get(error.status_code, "server_error")
        message = f"{error.detail}: {request.method} {request.url.path}"
        return Response(
            error_body(message, kind), error.status_code, error.headers, media_type=JSON
        )

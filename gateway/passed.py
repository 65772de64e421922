"""Routes that are passed on as they are, so that the base URL is all that changes for a client.

- Only what stands in the table: its paths are literal but for ids, which hold no slash, no escape
  and are not dots, so that nothing leads elsewhere.
- Bodies are not touched, whatever they are; `model` of a JSON body may be a task's name.
- A key that is limited to tasks reaches none of them.
- Captured with the status `passed`, bodies up to a size. What creates something is sent once only.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from everlearn.events import Completion, Status
from everlearn.ids import marked
from gateway.assignment import ALONE
from gateway.hot import Exchange, Hot
from gateway.http.body import with_model
from gateway.http.client import Client, Work
from gateway.http.heads import Request
from gateway.http.wire import Refusal
from gateway.targets import Target
from gateway.upstream import Asked

_COMPUTES = (
    "/v1/moderations", "/v1/audio/speech", "/v1/audio/transcriptions", "/v1/audio/translations",
    "/v1/images/generations", "/v1/images/edits", "/v1/images/variations", "/v1/rerank",
    "/v2/rerank", "/rerank", "/v1/score", "/score", "/tokenize", "/detokenize", "/v1/tokenize",
    "/v1/detokenize", "/pooling", "/classify", "/v1/messages", "/v1/messages/count_tokens",
)  # fmt: skip
"""POST; asked twice they do no harm."""
_KEEPS = (
    ("GET DELETE", "/v1/responses/{id}"),
    ("GET", "/v1/responses/{id}/input_items"),
    ("POST", "/v1/responses/{id}/cancel"),
    ("POST", "/v1/responses/compact"),
    ("GET", "/v1/chat/completions"),
    ("GET POST DELETE", "/v1/chat/completions/{id}"),
    ("GET", "/v1/chat/completions/{id}/messages"),
    ("POST", "/v1/conversations"),
    ("GET POST DELETE", "/v1/conversations/{id}"),
    ("GET POST", "/v1/conversations/{id}/items"),
    ("GET DELETE", "/v1/conversations/{id}/items/{id}"),
    ("GET POST", "/v1/files"),
    ("GET DELETE", "/v1/files/{id}"),
    ("GET", "/v1/files/{id}/content"),
    ("POST", "/v1/uploads"),
    ("POST", "/v1/uploads/{id}/parts"),
    ("POST", "/v1/uploads/{id}/complete"),
    ("POST", "/v1/uploads/{id}/cancel"),
    ("GET POST", "/v1/batches"),
    ("GET", "/v1/batches/{id}"),
    ("POST", "/v1/batches/{id}/cancel"),
)
"""Methods and path; they keep or end something at the upstream."""
_ID = r"(?!\.{1,2}(?:/|\Z))[A-Za-z0-9_.:~-]{1,256}"
MAX_JSON_BYTES = 4 * 2**20
"""A larger body is not looked into for its model."""


class Route(NamedTuple):
    """One line of the table."""

    methods: frozenset[bytes]
    path: re.Pattern[bytes]
    endpoint: str
    """What stands in the event."""
    again: bool = False


def _route(methods: str, path: str, *, again: bool = False) -> Route:
    pattern = "/".join(_ID if part == "{id}" else re.escape(part) for part in path.split("/"))
    endpoint = path.removeprefix("/v1/").removeprefix("/")
    return Route(frozenset(methods.encode().split()), re.compile(pattern.encode()), endpoint, again)


TABLE = tuple(
    sorted(
        [_route("POST", path, again=True) for path in _COMPUTES]
        + [_route(methods, path) for methods, path in _KEEPS],
        key=lambda route: route.endpoint.count("{id}"),
    )
)
"""Whole words before ids, which could be spelled alike."""


def route_of(path: bytes) -> Route | None:
    """The line of the table for a path."""
    return next((route for route in TABLE if route.path.fullmatch(path)), None)


class _Model(msgspec.Struct, frozen=True):
    model: Any = None
    stream: Any = None


_decode = msgspec.json.Decoder(_Model).decode


class Passing(Exchange):
    """One request that is passed on."""

    __slots__ = ("_model", "_route")

    def __init__(self, hot: Hot, request: Request, client: Client, route: Route) -> None:
        super().__init__(hot, request, client, route.endpoint)
        self._route = route
        self._model: str | None = None
        """A task's name that stands in the body."""

    def start(self) -> Work | None:
        """Always in a task: there is no hurry."""
        self._enter()
        try:
            if self._request.method not in self._route.methods:
                allowed = b", ".join(sorted(self._route.methods)).decode()
                raise Refusal(405, f"Method Not Allowed; allowed are {allowed}.")
            self._targets = self._plan()
        except Refusal as refusal:
            self.refuse(refusal)
            return None
        return self._in_task(None)

    def _plan(self) -> list[Target]:
        parts, draft, request = self._parts, self._draft, self._request
        caller = self._admit()
        holder = caller.holder
        if holder is not None and holder.key.tasks:
            path = request.path.decode("latin-1")
            message = f"This key is limited to tasks; it may not use {path}."
            raise Refusal(403, message, "route_not_allowed")
        model = self._named()
        route = parts.table.routes.get(model) if model is not None else None
        draft.completion_id = marked(draft.completion_id, None if route is None else model)
        caller.identify(draft, None, None)
        if route is not None and model is not None:
            draft.task, self._model = model, model
            targets = self._hot.targets.of(model, route, ALONE)
        elif parts.default_upstream is None:
            message = f"There is no default upstream to pass {request.path.decode('latin-1')} to."
            raise Refusal(404, message, "no_default_upstream")
        else:
            targets = self._hot.targets.of(model or "", None, None)
        if holder is not None:
            parts.keyring.enter(holder, draft.task)
            self._holder = holder
        return targets[:1]

    def _named(self) -> str | None:
        request, draft = self._request, self._draft
        kind = request.head.known.get(b"content-type", b"")
        if b"json" not in kind or len(request.body) > MAX_JSON_BYTES:
            return None
        try:
            body = _decode(request.body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None  # the upstream's to refuse
        draft.stream = body.stream is True
        draft.model_requested = body.model if isinstance(body.model, str) else None
        return draft.model_requested

    def _asked(self, target: Target, lines: bytes) -> Asked:
        request, body = self._request, self._request.body
        if self._model is not None and target.model is not None:
            body = with_model(body, target.model, self._model)
        path = request.path.removeprefix(b"/v1") if request.path.startswith(b"/v1/") else b""
        suffix = path or b"/" + request.path
        if request.head.query:
            suffix += b"?" + request.head.query
        get = request.method == b"GET"
        return Asked(
            suffix, lines, body if body or request.method == b"POST" else None, request.method,
            stream=self._draft.stream, again=get or self._route.again,
        )  # fmt: skip

    def _record(
        self,
        draft: Completion,
        status: Status,
        code: int,
        response: bytes,
        then: Callable[[], None] | None = None,
    ) -> None:
        if status == "ok" or (status == "upstream_error" and draft.error is None):
            status = "passed"
        super()._record(draft, status, code, response, then)
